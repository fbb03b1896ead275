"""The flags of the command `runs`, and its help text."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.errors import InputError

_DESCRIPTION = """\
Prints a table of the runs in directories and below them: differences, state, steps, metrics.

  mtfrun runs /tmp/sweep
  mtfrun runs /tmp/run1 /tmp/run2 /tmp/sweep
  mtfrun runs /tmp/sweep --metric=accuracy
  mtfrun runs /tmp --sort=date
  mtfrun runs /tmp/sweep --json

States: running; finished; stopped by a signal, or by kill -9; failed; damaged, where a file of the
newest checkpoint has another size than was saved. Metrics are those of the evaluations during
training: the last and the best, which * marks. Speed is that of the last steps. The columns on the
right, or those that fit, have the parameters in which the runs differ."""

SORT = ("name", "metric", "step", "date", "speed", "state")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--metric", help="of the evaluations; loss by default", metavar="NAME")
    add(
        "--sort", choices=SORT, help="what the rows are sorted by: metric by default", metavar="KEY"
    )
    add("--json", action="store_true", help="print one JSON array")


def _check(flags: argparse.Namespace) -> None:
    flags.words = [*flags.words, *([flags.model_dir] if flags.model_dir is not None else [])]
    if not flags.words:
        raise InputError("runs needs a directory, or several: mtfrun runs /tmp/sweep")


RUNS = Command(
    "runs",
    _DESCRIPTION,
    _add_flags,
    _check,
    "mtfrun.cli.runs.command:runs",
    imports_tensorflow=False,
    is_configured=False,
    is_of_run=False,
    takes_words=True,
)
