"""Flags of the commands that read a run: eval, decode and score."""

from __future__ import annotations

import argparse

from mtfrun.errors import InputError


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --output and --checkpoint."""
    add = parser.add_argument
    add(
        "--output",
        default="-",
        help="where to write; - (default) is standard output",
        metavar="FILE",
    )
    add("--checkpoint", default="latest", help="latest (default), best, or a step", metavar="C")


def check_run(flags: argparse.Namespace, *checkpoints: str) -> None:
    """Raises InputError unless there is a run or a configuration, and --checkpoint can be used.

    Args:
      flags: with --model_dir, --gin_file and --checkpoint.
      checkpoints: the words that --checkpoint may be instead of a step.
    """
    if flags.model_dir is None:
        if not flags.gin_file:
            raise InputError(f"{flags.command} needs the directory of a run: --model_dir=/tmp/run")
        if flags.checkpoint != "latest":
            raise InputError("--checkpoint is about a run: give its --model_dir")
    if flags.checkpoint not in checkpoints and not flags.checkpoint.isdecimal():
        raise InputError(
            f"--checkpoint={flags.checkpoint} is neither a step nor {' nor '.join(checkpoints)}"
        )


def check_files(flags: argparse.Namespace) -> None:
    """Raises InputError for names of files that are empty."""
    if "" in (flags.input, flags.output):
        raise InputError("--input and --output need the name of a file")
