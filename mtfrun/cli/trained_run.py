"""The parts that `eval`, `decode` and `score` share: run, checkpoints, output."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from mtfrun import mtf, processes
from mtfrun.cli.shared_flags import settings_of
from mtfrun.configuration import config
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.experiment import Record
from mtfrun.experiment.runs.opening import RunObjects, build_run, find_trained_run, restore_model
from mtfrun.experiment.runs.run_training import describe_setup
from mtfrun.experiment.saved_configuration import check_same_split
from mtfrun.rundir import DamagedCheckpointError, RunDirectory, RunDirError, atomic_open
from mtfrun.untrusted import visible

POLL_SECS = 10.0
SUMMARIES = "eval/continuous"
"""Where the curves go: the trainer evaluates too, and one directory has one writer."""
# The exit code if a model's numbers are not finite.
NON_FINITE = 3


def open_run(
    flags: argparse.Namespace, command: Sequence[str]
) -> tuple[RunDirectory | None, RunObjects]:
    """The directory is None without --model_dir."""
    run = None if flags.model_dir is None else find_trained_run(flags.model_dir)
    with progress.waiting("building the model and its data"):
        built = build_run(run, settings_of(flags))
    if run is not None:
        run.check_shared()
    check_same_split(built.experiment.data, None)
    _check_devices(built.experiment.mesh, flags)
    if run is not None and processes.is_first():
        setup = describe_setup(built.experiment, config.config_text(flags.gin_allow_imports))
        _record_where_possible(run, command, setup)
    return run, built


def _check_devices(mesh: mtf.Mesh, flags: argparse.Namespace) -> None:
    of_each = flags.devices_per_process
    if of_each is not None and mesh.size != of_each * processes.count():
        raise InputError(
            f"mesh {mesh.shape.to_string} has {mesh.size} device(s), {processes.count()} "
            f"process(es) with --devices_per_process={of_each} have {of_each * processes.count()}: "
            "change one of them"
        )


def _record_where_possible(
    run: RunDirectory, command: Sequence[str], setup: Mapping[str, object]
) -> None:
    """Does nothing if the run's directory cannot be written."""
    try:
        run.record_command(command, setup)
    except RunDirError as error:
        problem, _, _ = str(error).partition("; ")
        progress.print_line(progress.warning(f"{problem}; nothing is recorded there"))


def restore_each(
    flags: argparse.Namespace, built: RunObjects, run: RunDirectory | None
) -> Iterator[int]:
    restore = functools.partial(restore_model, built, run)
    if run is not None and flags.command == "eval" and flags.continuous:
        appearing = steps_as_they_appear(run, flags.timeout_secs)
        yield from restore_steps(run, appearing, restore, leave_out_damaged=True)
    elif run is not None and flags.checkpoint == "all":
        steps = processes.by_first(run.checkpoints().steps)
        yield from restore_steps(run, steps, restore)
    else:
        yield restore_model(built, run, flags.checkpoint)


def wait_for_checkpoint(
    run: RunDirectory,
    timeout_secs: float | None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Waits for the first checkpoint as long as `steps_as_they_appear` would wait for a new one."""
    start = clock()
    while True:
        training, steps = processes.by_first(
            lambda: (run.is_training(), run.checkpoints().steps()), "first checkpoint"
        )
        waited = processes.agree(clock() - start, "time")
        if steps or (not training if timeout_secs is None else waited >= timeout_secs):
            return
        sleep(POLL_SECS)


def steps_as_they_appear(
    run: RunDirectory,
    timeout_secs: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Yields the steps of all checkpoints, then of new or replaced ones, until training has ended.

    It has ended when no process trains, and the newest checkpoint is of the last step or there is
    no time-out. `timeout_secs` limits the wait for a new one, even if no process trains. Deleted
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
        sleep(POLL_SECS)


def restore_steps(
    run: RunDirectory,
    steps: Iterable[int],
    restore: Callable[[int], object],
    *,
    leave_out_damaged: bool = False,
) -> Iterator[int]:
    """A line on standard error names a checkpoint that the trainer deletes meanwhile."""
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


@contextlib.contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """A file appears once it is complete. Of several processes only the first one writes."""
    if not processes.is_first():
        with pathlib.Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield nowhere
    elif path == "-":
        if sys.stdout is None:
            raise InputError("standard output is closed: name a file with --output=FILE")
        yield sys.stdout
        sys.stdout.flush()
    else:
        with atomic_open(path) as file:
            yield file


def json_line(record: Record, step: int) -> str:
    fields = {**record.fields, "step": step}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(text: str) -> str:
    r"""Returns a text with a line end, and control characters other than line ends escaped.

    >>> as_text("two\nlines \x1b[31m")
    'two\nlines \\u001b[31m\n'
    """
    return f"{visible(text)}\n"
