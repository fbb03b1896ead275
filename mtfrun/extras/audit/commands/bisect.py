from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from mtfrun.cli.command import Command, add_json
from mtfrun.display.streams import print_lines
from mtfrun.errors import ExitCode

_DESCRIPTION = """\
Finds the first step at which two trainings part, what parts there, and the likely cause.

  mtfrun audit bisect /tmp/run /tmp/other
  mtfrun audit bisect /tmp/run /tmp/other --json

Compares the ledgers of two runs step by step: the initial values, and of every step the batch, the
random key, the loss, the gradient norm and, where there are digests, all variables. The first of
these that differs is named; then what differs in the records of the commands, the likely cause
first; then the document, if texts differ. On different meshes losses and norms are equal within
0.001 of their size.

With --recompute the step is computed again in both configurations, to name the variables that
differ before it, and the first layer that differs with equal variables. The runs' modules must be
allowed: --gin_allow_imports.

Exit code 5 if the runs differ."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("first", metavar="A", help="the directory of a run", path="directory")
    add("second", metavar="B", help="the directory of the other run", path="directory")
    text = "compute the step again in both, and name the first layer that differs"
    add("--recompute", action="store_true", help=text)
    add_json(parser)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.runs.opening import Settings
    from mtfrun.extras.audit.bisect import bisect
    from mtfrun.extras.audit.ledger import BATCH, INITIAL_VALUES, KEY, VARIABLES
    from mtfrun.rundir import RunDirectory

    runs = [RunDirectory(name) for name in (flags.first, flags.second)]
    for directory in runs:
        directory.require()
    result = bisect(runs[0].path, runs[1].path)
    if result.data_cause is not None:
        from mtfrun.extras.audit.documents import describe_documents

        last, first_batch = min(result.last_steps), result.first_batch
        lines = describe_documents(runs, Settings.of_flags(flags), last, first_batch)
        result = dataclasses.replace(result, documents=lines)
    difference = result.difference
    again = None
    if flags.recompute and difference is not None and difference.what not in (BATCH, KEY):
        from mtfrun.extras.audit.replay import recompute

        is_after = difference.what in (INITIAL_VALUES, VARIABLES)
        again = recompute(Settings.of_flags(flags), runs, difference.step + is_after)
    if flags.json:
        recomputed = {} if again is None else {"recomputed": again.as_json()}
        print(json.dumps({**result.as_json(), **recomputed}, allow_nan=False))
    else:
        print_lines(*result.lines(), *([] if again is None else ["", *again.lines()]))
    return 0 if difference is None else ExitCode.NOT_EQUAL


COMMANDS = [Command("audit bisect", _DESCRIPTION, run, _add_flags, subject="nothing")]
