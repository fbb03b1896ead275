from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from mtfrun.cli.command import Command, add_json, require_model_dir
from mtfrun.display import progress
from mtfrun.errors import ExitCode, InputError
from mtfrun.extras.audit.commands.ledger import interval

_DESCRIPTION = """\
Computes steps of a training again, and compares them with the run's ledger.

  mtfrun audit replay --model_dir=/tmp/run --steps=1200:1250
  mtfrun audit replay --model_dir=/tmp/run --steps=1:100 --gin.MESH_SHAPE="'data:2,model:2'"

Begins with the nearest checkpoint before the first step, and trains in a temporary directory. The
answer is "identical", or the first step that differs and what differs first there. On another mesh
losses and norms are equal within 0.001 of their size. What has changed since the run is printed
first: the commit, the machine, versions; other data are refused. Exit code 5 if a step differs."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    text = "the first and the last step, such as 1:100"
    parser.add_argument("--steps", type=interval, help=text, metavar="A:B")
    add_json(parser, "print one JSON object")


def _check(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    if flags.steps is None:
        raise InputError("audit replay needs the first and the last step, such as --steps=100:150")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.runs.opening import Settings
    from mtfrun.experiment.runs.run_training import prepare
    from mtfrun.extras.audit.replay import changes_since, replay
    from mtfrun.rundir import RunDirectory

    run = RunDirectory(flags.model_dir)
    run.require()
    training = prepare(Settings.of_flags(flags), run=run).training
    for line in changes_since(run, flags.steps[0]):
        progress.note(f"mtfrun: note: {line}")
    result = replay(training, run, *flags.steps)
    print(json.dumps(dataclasses.asdict(result)) if flags.json else result.describe())
    return 0 if result.difference is None else ExitCode.NOT_EQUAL


COMMANDS = [Command("audit replay", _DESCRIPTION, run, _add_flags, _check, subject="run")]
