from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, add_json, settings_of
from mtfrun.display.streams import print_lines
from mtfrun.errors import ExitCode, InputError

if TYPE_CHECKING:
    from mtfrun.extras.audit.bisect import Bisection
    from mtfrun.extras.audit.replay import RecomputedStep
    from mtfrun.rundir import RunDirectory

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
    parser.add_argument("first", metavar="A", help="the directory of a run", path="directory")
    parser.add_argument(
        "second", metavar="B", help="the directory of the other run", path="directory"
    )
    text = "compute the step again in both, and name the first layer that differs"
    parser.add_argument("--recompute", action="store_true", help=text)
    add_json(parser)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.extras.audit.bisect import bisect
    from mtfrun.extras.audit.causes import DATA
    from mtfrun.extras.audit.ledger import BATCH, INITIAL_VALUES, KEY, VARIABLES
    from mtfrun.rundir import RunDirectory

    a, b = (RunDirectory(name) for name in (flags.first, flags.second))
    for directory in (a, b):
        directory.require()
    result = bisect(a.path, b.path)
    if any(cause.kind == DATA for cause in result.causes):
        result = dataclasses.replace(result, documents=_documents(flags, (a, b), result))
    difference = result.comparison.difference
    again = None
    if flags.recompute and difference is not None and difference.what not in (BATCH, KEY):
        is_after = difference.what in (INITIAL_VALUES, VARIABLES)
        again = _recompute(flags, (a, b), difference.step + is_after)
    if flags.json:
        recomputed = {} if again is None else {"recomputed": again.as_json()}
        print(json.dumps({**result.as_json(), **recomputed}, allow_nan=False))
    else:
        more = [] if again is None else ["", *again.lines()]
        print_lines(*result.lines(), *more)
    return 0 if result.is_equal else ExitCode.NOT_EQUAL


def _documents(
    flags: argparse.Namespace, runs: Sequence[RunDirectory], result: Bisection
) -> list[str]:
    from mtfrun.display.tensorflow_import import import_tensorflow

    with import_tensorflow():
        from mtfrun.extras.audit.documents import describe_documents

    is_read = result.first_batch is not None
    step = result.first_batch or min(result.last)
    try:
        return describe_documents(runs, settings_of(flags), step, is_read=is_read)
    except InputError as error:  # such as a module that is not allowed
        return [f"the documents are not compared: {error}"]


def _recompute(
    flags: argparse.Namespace, runs: Sequence[RunDirectory], step: int
) -> RecomputedStep:
    from mtfrun.display.tensorflow_import import import_tensorflow

    with import_tensorflow():
        from mtfrun import mtf
        from mtfrun.experiment.runs.run_training import prepare
        from mtfrun.extras.audit.causes import RunRecords
        from mtfrun.extras.audit.replay import recompute

    def devices(run: RunDirectory) -> int:
        size: int = mtf.convert_to_shape(RunRecords.of(run.path).at(step).get("mesh", "")).size
        return size

    # The larger mesh first: devices are simulated once.
    order = sorted(range(2), key=lambda i: -devices(runs[i]))
    trainings = {i: prepare(settings_of(flags), run=runs[i]).training for i in order}
    return recompute([trainings[0], trainings[1]], runs, step)


COMMANDS = [
    Command(
        "audit bisect", _DESCRIPTION, run, _add_flags, subject="nothing", imports_tensorflow=False
    )
]
