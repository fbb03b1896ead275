"""The flags of the command `eval`, and its help text."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.cli.flags.processes import add_process_flags, check_processes
from mtfrun.cli.flags.run import check_run
from mtfrun.errors import InputError

_DESCRIPTION = """\
Evaluates checkpoints: one JSON object each on standard output, and curves in --model_dir/eval.

  mtfrun eval --model_dir=/tmp/run
  mtfrun eval --model_dir=/tmp/run --checkpoint=all
  mtfrun eval --model_dir=/tmp/run --continuous
  mtfrun eval --model_dir=/tmp/run --gin.EVAL_SPLIT="'test'"

--continuous evaluates every checkpoint, waits for new ones, and ends when no process trains the
run. With --timeout_secs=3600 it waits an hour for each, also while a run is interrupted, and ends
at once only after the last step. Its curves are in --model_dir/eval/continuous.

A metric that is infinite or not a number is printed as null, and the exit code is 3.

Without --gin_file the configuration is the run's own, --model_dir/config.gin, which may import
mtfrun alone: --gin_allow_imports=my_models names other modules that you trust.
Without --model_dir the model is that of --gin_file, with the values of any checkpoint that training
could start from: --gin.INIT_CHECKPOINT="'/models/t5/model.ckpt-1000'"."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", default="latest", help="latest (default), best, all, or a step", metavar="C"
    )
    parser.add_argument(
        "--continuous",
        action="store_true",
        help="evaluate all checkpoints, and new ones until training has ended",
    )
    parser.add_argument(
        "--timeout_secs",
        type=float,
        help="with --continuous: how long to wait for a new checkpoint; by default while a process "
        "trains",
        metavar="SECS",
    )
    add_process_flags(parser)


def _check(flags: argparse.Namespace) -> None:
    check_processes(flags)
    check_run(flags, "latest", "best", "all")
    if flags.continuous and flags.model_dir is None:
        raise InputError("--continuous is about a run: give its --model_dir")
    if flags.timeout_secs is not None and not (flags.continuous and flags.timeout_secs > 0):
        raise InputError("--timeout_secs is a number above 0, and for --continuous alone")
    if flags.continuous and flags.checkpoint != "latest":
        raise InputError("--continuous evaluates all checkpoints: leave --checkpoint out")


EVAL = Command("eval", _DESCRIPTION, _add_flags, _check, "mtfrun.cli.commands:evaluate")
