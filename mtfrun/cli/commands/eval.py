from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence

from mtfrun.cli.command import Command
from mtfrun.cli.join_processes import add_process_flags, check_processes
from mtfrun.cli.shared_flags import RUN_HELP, check_run
from mtfrun.display import progress
from mtfrun.errors import InputError

_DESCRIPTION = (
    """\
Evaluates checkpoints: one JSON object each on standard output, and curves in --model_dir/eval.

  mtfrun eval --model_dir=/tmp/run
  mtfrun eval --model_dir=/tmp/run --checkpoint=all
  mtfrun eval --model_dir=/tmp/run --continuous
  mtfrun eval --model_dir=/tmp/run --gin.EVAL_SPLIT="'test'"

--continuous evaluates every checkpoint, waits for new ones, and ends when no process trains the
run. With --timeout_secs=3600 it waits an hour for each, also while a run is interrupted, and ends
at once only after the last step. Its curves are in --model_dir/eval/continuous.

A metric that is infinite or not a number is printed as null, and the exit code is 3.

"""
    + RUN_HELP
)


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


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun import processes
    from mtfrun.cli.trained_run import (
        NON_FINITE,
        SUMMARIES,
        open_run,
        restore_each,
        wait_for_checkpoint,
    )
    from mtfrun.rundir import RunDirectory

    if flags.continuous:
        wait_for_checkpoint(RunDirectory(flags.model_dir), flags.timeout_secs)
    run, built = open_run(flags, command)
    if processes.count() > 1:
        built.evaluation.check_split()
    code = 0
    with contextlib.ExitStack() as stack:
        summaries = None
        # All have them or none: samples are only decoded if they are shown.
        if run is not None and processes.by_first(run.is_writable):
            name = SUMMARIES if flags.continuous else "eval"
            summaries = stack.enter_context(run.summaries(name))
        for step in restore_each(flags, built, run):
            metrics = built.evaluation(step, summaries, run=None if summaries is None else run)
            for line in routing_table(metrics):
                progress.note(line)
            non_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
            fields = {"step": step, **metrics, **dict.fromkeys(non_finite)}
            if processes.is_first():
                print(json.dumps(fields, allow_nan=False), flush=True)
            if non_finite:
                line = progress.error(
                    f"step {step}: {', '.join(non_finite[:3])} "
                    "infinite or not a number, null in the line above"
                )
                progress.note(line)
                code = NON_FINITE
    return code


_LEVEL = re.compile(r"(?P<layer>.*)/(?P<level>level_\d+)/load")
_HEADING = ("layer", "level", "experts", "busiest", "idlest", "dropped", "entropy", "balance loss")


def routing_table(values: Mapping[str, float]) -> list[str]:
    """Returns a line for every layer and level of experts; none for models without mixtures.

    "busiest" and "idlest" are loads relative to an equal share, "dropped" is the share of choices
    whose expert was full, entropy is in nats. Below are the shares of tokens by number of experts.
    """
    from mtfrun.rundir.tensorboard import metric_tags

    vectors = metric_tags.vectors(values)
    rows = [_HEADING]
    experts_per_token = []
    for name, shares in vectors.items():
        if name.endswith("/experts_per_token"):
            labels = [*map(str, range(len(shares) - 1)), f"{len(shares) - 1} or more"]
            counted = "  ".join(
                f"{n}: {share:.1%}" for n, share in zip(labels, shares, strict=True)
            )
            experts_per_token.append(
                f"experts per token, {name.removesuffix('/experts_per_token')}  {counted}"
            )
        match = _LEVEL.fullmatch(name)
        if not match:
            continue
        prefix = name.removesuffix("load")
        loads = shares * len(shares)
        rows.append(
            (
                match["layer"],
                match["level"].removeprefix("level_"),
                str(len(shares)),
                f"{loads.max():.2f}",
                f"{loads.min():.2f}",
                f"{values[prefix + 'dropped']:.1%}",
                f"{values[prefix + 'entropy']:.3f}",
                f"{values[prefix + 'balance_loss']:.3f}",
            )
        )
    if len(rows) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return table + experts_per_token


EVAL = Command("eval", _DESCRIPTION, _add_flags, _check, run)
