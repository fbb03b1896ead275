"""The flags of the command `runs`, and its help text."""

from __future__ import annotations

import argparse

from mtfrun.cli.errors import UsageError
from mtfrun.cli.flags.command import Command

_DESCRIPTION = """\
Prints a table of the runs in a directory and those below: what differs, state, steps, metrics.

  mtfrun runs /tmp/sweep
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
    add("directory", nargs="?", help="the directory; --model_dir is the same", metavar="DIR")
    add("--metric", help="of the evaluations; loss by default", metavar="NAME")
    add(
        "--sort", choices=SORT, help="what the rows are sorted by: metric by default", metavar="KEY"
    )
    add("--json", action="store_true", help="print one JSON array")


def _check(flags: argparse.Namespace) -> None:
    if flags.directory is not None and flags.model_dir is not None:
        raise UsageError("runs takes one directory: leave --model_dir out")
    if flags.directory is None:
        flags.directory = flags.model_dir
    if flags.directory is None:
        raise UsageError("runs needs a directory: mtfrun runs /tmp/sweep")


RUNS = Command(
    "runs",
    _DESCRIPTION,
    _add_flags,
    _check,
    "mtfrun.cli.runs.command:runs",
    imports_tensorflow=False,
    is_configured=False,
    is_of_run=False,
)
