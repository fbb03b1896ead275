"""Evaluation of the checkpoints of a run while it is trained."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from mtfrun import processes
from mtfrun.rundir import DamagedCheckpointError, RunDirectory, RunDirError

POLL_SECS = 10.0
SUMMARIES = "eval/continuous"
"""Where the curves go: the trainer evaluates too, and one directory has one writer."""


def wait_for_checkpoint(
    run: RunDirectory,
    timeout_secs: float | None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Waits until a run has a checkpoint, as long as `steps_as_they_appear` would wait for one."""
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
    """Yields the steps of all checkpoints, then of new ones, until training has ended.

    That is when no process trains the run, and either the newest checkpoint is of the last step or
    there is no time-out. A checkpoint that is deleted before its step is yielded is left out; one
    whose step is saved again is yielded again.

    Args:
      run: is trained, in another process.
      timeout_secs: how long to wait for a new checkpoint, whether or not a process trains: for runs
        that are interrupted and go on. None waits while a process trains.
      sleep: waits for so many seconds.
      clock: returns the time in seconds.
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


def each_restored(
    run: RunDirectory,
    steps: Iterable[int],
    restore: Callable[[int], object],
    *,
    leave_out_damaged: bool = False,
) -> Iterator[int]:
    """Yields each of the steps after its checkpoint was restored.

    The trainer deletes old checkpoints: one that it deletes between the listing and the end of the
    reading is left out, and a line on standard error says so.

    Args:
      run: has the checkpoints.
      steps: to restore.
      restore: restores a step.
      leave_out_damaged: a damaged checkpoint is left out too, with its error as the line.

    Raises:
      RunDirError: a checkpoint cannot be restored and is still there.
    """
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
