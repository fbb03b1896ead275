"""The flags of the command `curves`, and its help text."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.errors import InputError

_DESCRIPTION = """\
Prints the curves of a run as a table: training's numbers, and those of its evaluations.

  mtfrun curves --model_dir=/tmp/run
  mtfrun curves --model_dir=/tmp/run --rows=40

A row is a step of an evaluation or of a line of progress; of more than --rows of these some are
chosen, evenly, the first and the last among them.

TensorBoard draws the same numbers, and more: tensorboard --logdir /tmp/run"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=int, default=12, help="at most so many steps (default: 12)", metavar="N"
    )


def _check(flags: argparse.Namespace) -> None:
    if flags.model_dir is None:
        raise InputError("curves needs the directory of a run: --model_dir=DIR")
    if flags.rows < 2:
        raise InputError(f"--rows={flags.rows} must be at least 2, for the first and the last step")


CURVES = Command(
    "curves", _DESCRIPTION, _add_flags, _check, "mtfrun.cli.curves:curves", is_configured=False
)
