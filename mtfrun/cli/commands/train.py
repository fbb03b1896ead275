from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Sequence

from mtfrun.cli import command as cli
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

_DESCRIPTION = """\
Trains a model, from the newest checkpoint in --model_dir if there is one.

  mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run
  mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run --gin.TRAIN_STEPS=50
  mtfrun train --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin --model_dir=/tmp/mesh
  mtfrun train --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin --dry_run

--dry_run builds the model, checks the layout, and prints every variable with its dimensions, the
mesh axis of each, its part and bytes on a device, and layout rules without effect. Nothing is
written to --model_dir. `mtfrun plan` says what memory and which collectives a step needs.

SIGTERM, Ctrl-C and SIGHUP finish the current steps, about 5 seconds, save a checkpoint and exit
with 143, 130 or 129; the same command continues from there. A second one ends the process at once.
--max_hours=11.5 saves and ends in time for a queue that allows 12 hours. --restart begins again at
step 0; existing checkpoints are moved to --model_dir/checkpoints.1 (.2, ...).

Training ends with exit code 3, without saving, if the loss, the norm of the gradients or a
variable is infinite or not a number; nan_step_N.json in --model_dir has the step, the first such
variable and the rows of the batch. --gin.ON_NAN="'skip'" leaves such updates out instead.

`mtfrun launch -n 2 -- train ...` trains as two processes; on several machines each runs

  mtfrun train --num_processes=4 --process_id=0 --coordinator=node0:8476 --trusted_network \
      --gin_file=...

with its own --process_id, and a --model_dir in a file system that all share."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dry_run", action="store_true", help="build the model and print its variables and layout")
    text = "begin at step 0; existing checkpoints are moved to checkpoints.1"
    add("--restart", action="store_true", help=text)
    add("--profile", action="store_true", help="record a trace of some steps in --model_dir/train")
    text = "which of several processes --profile records; 0 by default"
    add("--profile_process", type=int, default=0, help=text)
    text = "save and end after so many hours, with exit code 0; the same command resumes"
    add("--max_hours", type=float, help=text)
    text = "continue although data, configuration or code have changed since the checkpoint"
    add("--accept_changes", action="store_true", help=text)


def _check(flags: argparse.Namespace) -> None:
    if not flags.gin_file:
        run_config = pathlib.Path(flags.model_dir or "") / "config.gin"
        name = run_config if flags.model_dir and run_config.is_file() else "runs/quickstart.gin"
        raise InputError(f"train needs a configuration: --gin_file={name}")
    if flags.dry_run and flags.num_processes > 1:
        raise InputError("--dry_run builds any mesh in one process: leave --num_processes out")
    if flags.profile_process not in range(max(1, flags.num_processes)):
        count = f"there are {flags.num_processes} process(es), numbered from 0"
        raise InputError(f"--profile_process={flags.profile_process}: {count}")
    if flags.max_hours is not None and not 0 < flags.max_hours < math.inf:
        raise InputError(f"--max_hours={flags.max_hours:g} must be more than 0")
    if flags.model_dir is None and not flags.dry_run:
        raise InputError("train needs a directory for the run: --model_dir=/tmp/run")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun import processes
    from mtfrun.experiment.printed_summary import unused_rules, variable_lines
    from mtfrun.experiment.runs.opening import Settings
    from mtfrun.experiment.runs.run_training import prepare, run_training
    from mtfrun.experiment.training import TrainChoices
    from mtfrun.rundir import RunDirectory

    if flags.dry_run:
        training = prepare(Settings.of_flags(flags), planned=True).training
        mesh = training.experiment.mesh
        mesh.require_division()
        lines = variable_lines(mesh, training.state.model.named_variables())
        print_lines(*lines, *(f"{label}: {text}" for label, text in unused_rules(mesh)))
        return 0
    run = RunDirectory(flags.model_dir)
    is_profiled = flags.profile and flags.profile_process == processes.index()
    choices = TrainChoices(flags.restart, flags.accept_changes, is_profiled, flags.max_hours)
    result = run_training(prepare(Settings.of_flags(flags)), run, command, choices)
    if result.signal is None:
        return 0
    saved = f"and saved at step {result.step}" if result.is_saved else "before the first step"
    progress.note(f"mtfrun: stopped {saved}; the same command resumes")
    return 128 + result.signal


COMMANDS = [
    cli.Command(
        "train", _DESCRIPTION, run, _add_flags, _check, writes_run=True, several_processes=True
    )
]
