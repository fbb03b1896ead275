from __future__ import annotations

import argparse
import re

from mtfrun.errors import InputError


def _steps(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--steps={text}: name steps, separated by commas: --steps=1000,2000")
    return sorted({int(word) for word in words})


def add_checkpoint(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--checkpoint", help=f"a step; {default} by default", metavar="STEP")


def add_match(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--match", default="", help="a regular expression of paths of variables", metavar="REGEX"
    )


def check_run(flags: argparse.Namespace) -> None:
    if flags.model_dir is None:
        raise InputError(f"{flags.command} needs the directory of a run: --model_dir=/tmp/run")
    check_match(flags)
    step = getattr(flags, "checkpoint", None)
    if step is not None and not step.isdecimal():
        raise InputError(f"--checkpoint={step} is not a step")


def check_match(flags: argparse.Namespace) -> None:
    text = getattr(flags, "match", "")
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"--match={text} is not a regular expression: {error}") from None


def check_choice(flags: argparse.Namespace, count: str) -> None:
    number = getattr(flags, count)
    if (number is None) == (flags.steps is None):
        raise InputError(f"{flags.command} needs either --{count}=N or --steps=1000,2000")
    if number is not None and number < 1:
        raise InputError(f"--{count}={number} must be at least 1")
    if flags.steps is not None:
        flags.steps = _steps(flags.steps)
