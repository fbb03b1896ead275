"""The flags of the command `sweep`, and its help text."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.errors import InputError

_DESCRIPTION = """\
Trains a grid of runs: every combination of the alternatives that flags give.

  mtfrun sweep --gin_file=runs/quickstart.gin --gin.LEARNING_RATE=0.01,0.03,0.1 --model_dir=/tmp/lr
  mtfrun sweep --gin_file=runs/quickstart.gin --gin.LEARNING_RATE=0.01,0.03 --gin.D_MODEL=64,128 \\
      --gin.TRAIN_STEPS=500 --model_dir=/tmp/grid --jobs=2
  mtfrun sweep ... --dry_run        prints the runs, and starts none

A comma outside of brackets and quotes separates alternatives. A list is one value, in brackets, and
so is a text, in quotes within quotes:

  --gin.Entropies.orders="[1,2],[3]"                  two alternatives: [1, 2] and [3]
  --gin.MESH_SHAPE="'data:2,model:1','data:1,model:2'"    two texts
  --gin.Training.optimizer="@optim.Adam(),@optim.Adafactor()"

Each run is trained by `mtfrun train`, in a directory of --model_dir that has the name of what
differs, such as LEARNING_RATE=0.01,D_MODEL=64; sweep.log in it has its output. --jobs=N trains N of
them at the same time, which share the machine's GPUs in equal parts. A run that fails does not end
the others. At the end a table has step, state and metrics of every run, the best one marked by *.

Ctrl-C and SIGTERM save the runs that are trained and end the sweep. The same command goes on: runs
that are finished are left out, the others go on from their checkpoints. It may name further values
of the parameters that differ; other changes are refused.

The exit code is 0, or that of the first run that failed. `mtfrun runs DIR` prints a table later."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--jobs", type=int, default=1, help="runs at the same time; 1 by default", metavar="N")
    add("--metric", help="the metric of the table; loss by default", metavar="NAME")
    add("--dry_run", action="store_true", help="print the runs, and start none")
    add(
        "--accept_changes",
        action="store_true",
        help="go on although the data have changed since the checkpoints",
    )


def _check(flags: argparse.Namespace) -> None:
    if not flags.gin_file:
        raise InputError("sweep needs a configuration: --gin_file=runs/quickstart.gin")
    if flags.model_dir is None:
        raise InputError("sweep needs a directory for its runs: --model_dir=/tmp/sweep")
    if flags.jobs < 1:
        raise InputError(f"--jobs={flags.jobs} must be at least 1")


SWEEP = Command(
    "sweep",
    _DESCRIPTION,
    _add_flags,
    _check,
    "mtfrun.cli.sweep.command:sweep",
    imports_tensorflow=False,
)
