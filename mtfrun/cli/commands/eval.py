from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtfrun import processes
from mtfrun.cli import command as cli
from mtfrun.display import progress
from mtfrun.display.table import table_lines
from mtfrun.errors import ExitCode, InputError

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory

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
    + cli.RUN_HELP
)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    cli.add_checkpoint(parser, "latest (default), best, all, or a step")
    text = "evaluate all checkpoints, and new ones until training has ended"
    parser.add_argument("--continuous", action="store_true", help=text)
    text = "of --continuous: how long to wait for a checkpoint; by default while a process trains"
    parser.add_argument("--timeout_secs", type=float, help=text)
    cli.add_adapter(parser)


def _check(flags: argparse.Namespace) -> None:
    cli.check_run(flags, "latest", "best", "all")
    if flags.continuous and flags.model_dir is None:
        raise InputError("--continuous is about a run: give its --model_dir")
    if flags.timeout_secs is not None and not (flags.continuous and flags.timeout_secs > 0):
        raise InputError("--timeout_secs is a number above 0, and for --continuous alone")
    if flags.continuous and flags.checkpoint != "latest":
        raise InputError("--continuous evaluates all checkpoints: leave --checkpoint out")


_POLL_SECS = 10.0
# Where the curves of --continuous go: the trainer evaluates too, and a directory has one writer.
_CONTINUOUS = "eval/continuous"


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.cli.inputs_and_outputs import open_run
    from mtfrun.experiment.runs.opening import restore_model
    from mtfrun.rundir import RunDirectory

    steps: Iterable[int] | None = None
    if flags.continuous:
        appearing = steps_as_they_appear(RunDirectory(flags.model_dir), flags.timeout_secs)
        first = list(itertools.islice(appearing, 1))  # a run without checkpoints cannot be opened
        steps = itertools.chain(first, appearing)
    run, built = open_run(flags, command)
    evaluation = built.evaluation.outside_training(built.bindings)
    if processes.count() > 1:
        evaluation.check_split()
    restore = functools.partial(restore_model, built, run, adapter=flags.adapter)
    if run is not None and flags.checkpoint == "all":
        steps = processes.by_first(run.checkpoints().steps)
    code = 0
    with contextlib.ExitStack() as stack:
        summaries = None
        # The same in all processes: samples are only decoded if they are shown.
        # The curves of a run are of its model without an adapter.
        has_curves = run is not None and flags.adapter is None
        if run is not None and has_curves and processes.by_first(run.is_writable):
            name = _CONTINUOUS if flags.continuous else "eval"
            summaries = stack.enter_context(run.summaries(name))
        if run is None or steps is None:
            restored: Iterable[int] = [restore(flags.checkpoint)]
        else:
            restored = restore_steps(run, steps, restore, leave_out_damaged=flags.continuous)
        for step in restored:
            details: dict[str, Any] = {}
            metrics = evaluation(
                step, summaries, run=None if summaries is None else run, details=details
            )
            for line in (*routing_table(metrics), *detail_lines(details, evaluation.split)):
                progress.note(line)
            non_finite = [name for name, value in metrics.items() if not math.isfinite(value)]
            fields = {"step": step, **metrics, **details, **dict.fromkeys(non_finite)}
            if processes.is_first():
                print(json.dumps(fields, allow_nan=False), flush=True)
            if non_finite:
                line = progress.error(
                    f"step {step}: {', '.join(non_finite[:3])} "
                    "infinite or not a number, null in the line above"
                )
                progress.note(line)
                code = ExitCode.NOT_FINITE
    return code


def steps_as_they_appear(
    run: RunDirectory,
    timeout_secs: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Yields the steps of all checkpoints, then of new or replaced ones, until training has ended.

    It has ended when no process trains, and the newest checkpoint is of the last step or there is
    no time-out. `timeout_secs` limits the wait for a new step, even if no process trains. Deleted
    checkpoints are left out.
    """
    yielded: dict[int, object] = {}

    def state() -> tuple[bool, bool, list[tuple[int, object]]]:
        # In this order: a checkpoint that is saved in between is yielded in the next round.
        training, checkpoints = run.is_training(), run.checkpoints()
        steps = checkpoints.steps()
        is_last = bool(steps) and checkpoints.is_of_last_step(steps[-1])
        return training, is_last, [(step, checkpoints.identity(step)) for step in steps]

    newest = clock()
    while True:
        training, is_last, saved = processes.by_first(state, "checkpoints")
        new = [(step, identity) for step, identity in saved if yielded.get(step, 0) != identity]
        if new:
            step, yielded[step] = new[0]
            yield step
            newest = clock()
            continue
        waited = processes.agree(clock() - newest, "time")
        if not training and (is_last or timeout_secs is None):
            return
        if timeout_secs is not None and waited >= timeout_secs:
            return
        sleep(_POLL_SECS)


def restore_steps(
    run: RunDirectory,
    steps: Iterable[int],
    restore: Callable[[int], object],
    *,
    leave_out_damaged: bool = False,
) -> Iterator[int]:
    """Yields the restored steps; warns of checkpoints that the trainer deletes meanwhile."""
    from mtfrun.files import DamagedCheckpointError, RunDirError

    for step in steps:
        try:
            restore(step)
        except RunDirError as error:
            # The manifest is the first file that the trainer deletes: a checkpoint that has one is
            # damaged.
            line = f"step {step}: deleted before it was read, left out"
            if step in processes.by_first(run.checkpoints().steps, "deleted"):
                if not (leave_out_damaged and isinstance(error, DamagedCheckpointError)):
                    raise
                line = f"mtfrun: warning: {error}; left out"
            if processes.is_first():
                print(line, file=sys.stderr, flush=True)
            continue
        yield step


def detail_lines(details: Mapping[str, Any], split: str) -> list[str]:
    """Returns the number of examples in the metrics, and a classifier's table of classes."""
    lines, examples = [], details.get("examples", {})
    for name in (name for name in examples if name.rpartition("/")[2] == "split"):
        task, _, _ = name.rpartition("/")
        metrics = [x for x in examples if x.rpartition("/")[0] == task and x != name]
        count, split_size = examples[metrics[0]], examples[name]
        number = f"all {count:,}" if count == split_size else f"{count:,} of the {split_size:,}"
        lines.append(f"{', '.join(metrics)}: of {number} examples of {split}")
    accuracies = {name: f"{x:.4f}" for name, x in details.get("class_accuracy", {}).items()}
    if "confusion" in details:
        labels, counts = details["confusion"].values()
        rows = []
        for name, row in zip(labels, counts, strict=False):
            wrong = [(n, other) for n, other in zip(row, labels, strict=True) if other != name]
            most, other = max(wrong, default=(0, ""))
            mistake = f"{other} ({most:,})" if most else ""
            rows.append((name, f"{sum(row):,}", accuracies.get(name, "-"), mistake))
        lines += table_lines(("class", "examples", "accuracy", "most often taken for"), rows, None)
    elif accuracies:
        lines += table_lines(("label", "accuracy"), list(accuracies.items()), None)
    return lines


_LEVEL = re.compile(r"(?P<layer>.*)/level_(?P<level>\d+)/load")
_HEADING = ("layer", "level", "experts", "busiest", "idlest", "dropped", "entropy", "balance loss")


def routing_table(values: Mapping[str, float]) -> list[str]:
    """Returns a line for every layer and level of experts; empty for models without mixtures.

    "busiest" and "idlest" are loads relative to an equal share, "dropped" is the share of choices
    of full experts, entropy is in nats. Below are the shares of tokens by number of experts.
    """
    from mtfrun.metrics import tags

    rows, experts_per_token = [], []
    for name, shares in tags.vectors(values).items():
        if name.endswith("/experts_per_token"):
            labels = [*map(str, range(len(shares) - 1)), f"{len(shares) - 1} or more"]
            counts = (f"{n}: {share:.1%}" for n, share in zip(labels, shares, strict=True))
            layer = name.removesuffix("/experts_per_token")
            experts_per_token.append(f"experts per token, {layer}  {'  '.join(counts)}")
        if match := _LEVEL.fullmatch(name):
            loads = [f"{x * len(shares):.2f}" for x in (max(shares), min(shares))]
            prefix = name.removesuffix("load")
            dropped = f"{values[f'{prefix}dropped']:.1%}"
            numbers = [f"{values[prefix + x]:.3f}" for x in ("entropy", "balance_loss")]
            level = [match["layer"], match["level"], str(len(shares))]
            rows.append([*level, *loads, dropped, *numbers])
    return [*table_lines(_HEADING, rows, None), *experts_per_token] if rows else []


COMMANDS = [
    cli.Command(
        "eval", _DESCRIPTION, run, _add_flags, _check, model_dir="run", several_processes=True
    )
]
