"""Evaluation of the checkpoints of a run while it is trained."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from mtfrun import processes
from mtfrun.rundir import RunDirectory, RunDirError

POLL_SECS = 10.0


def steps_as_they_appear(
    run: RunDirectory, sleep: Callable[[float], None] = time.sleep
) -> Iterator[int]:
    """Yields the steps of all checkpoints, then of new ones, until no process trains the run.

    A checkpoint that is deleted before its step is yielded is left out.
    """
    yielded: set[int] = set()
    while True:
        # In this order: a checkpoint that is saved in between is yielded in the next round.
        training, steps = processes.by_first(
            lambda: (run.is_training(), run.checkpoints().steps()), "checkpoints"
        )
        new = [step for step in steps if step not in yielded]
        if new:
            yielded.add(new[0])
            yield new[0]
        elif training:
            sleep(POLL_SECS)
        else:
            return


def each_restored(
    run: RunDirectory, steps: Iterable[int], restore: Callable[[int], object]
) -> Iterator[int]:
    """Yields each of the steps after its checkpoint was restored.

    The trainer deletes all but the newest checkpoints: one that it deletes between the listing and
    the end of the reading is left out, and a line on standard error says so.

    Raises:
      RunDirError: a checkpoint cannot be restored and is still there.
    """
    for step in steps:
        try:
            restore(step)
        except RunDirError:
            # The manifest is the first file that the trainer deletes: a checkpoint that has one is
            # damaged.
            if step in processes.by_first(run.checkpoints().steps, "deleted"):
                raise
            if processes.is_first():
                line = f"step {step}: deleted before it was read, left out"
                print(line, file=sys.stderr, flush=True)
            continue
        yield step
