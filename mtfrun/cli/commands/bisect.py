from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from mtfrun.cli.command import Command, add_json
from mtfrun.cli.commands.verify import NOT_EQUAL
from mtfrun.display.streams import print_lines
from mtfrun.display.table import terminal_columns

_DESCRIPTION = """\
Finds the first step at which two trainings part, what parts there, and the likely cause.

  mtfrun bisect /tmp/run /tmp/other
  mtfrun bisect /tmp/run /tmp/other --json

Compares the ledgers of two run directories step by step: the initial values, and of every step the
batch, the random key, the loss, the gradient norm and, where there are digests, all variables. The
first of these that differs is named; then what differs in the records of the commands that trained
the runs when they computed that step, the likely cause first: the seed, the data, settings, values
restored from a checkpoint, versions, the code, the machine, the number of threads, the mesh. On
different meshes, layouts or numbers of processes losses and norms are equal within 0.001 of their
size.

Exit code 5 if the runs differ. `mtfrun ledger show` prints a ledger, `mtfrun replay` computes steps
again."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="the directory of a run")
    parser.add_argument("second", metavar="B", help="the directory of the other run")
    add_json(parser)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunDirectory
    from mtfrun.tools.auditing.bisect import bisect

    a, b = (RunDirectory(name) for name in (flags.first, flags.second))
    for directory in (a, b):
        directory.require()
    result = bisect(a.path, b.path)
    if flags.json:
        print(json.dumps(result.as_json(), allow_nan=False))
    else:
        print_lines(*result.lines(terminal_columns()))
    return 0 if result.is_equal else NOT_EQUAL


COMMANDS = [
    Command("bisect", _DESCRIPTION, run, _add_flags, subject="nothing", imports_tensorflow=False)
]
