"""Following a run that is being trained."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from mtfrun.rundir import RunDirectory, RunDirError

POLL_SECS = 10.0


def steps_as_they_appear(
    run: RunDirectory, sleep: Callable[[float], None] = time.sleep
) -> Iterator[int]:
    """Yields the steps of all checkpoints, then of new ones, until nobody trains the run any more.

    A checkpoint that is deleted before its turn is left out.
    """
    yielded: set[int] = set()
    while True:
        # In this order: a checkpoint that is saved between the two is found in the next round.
        training = run.is_training()
        new = [step for step in run.checkpoints().steps() if step not in yielded]
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
    """Yields each of the steps once it is restored.

    The trainer keeps the newest checkpoints only: one that it deletes between the listing and the
    end of the reading is left out, with a line that says so.

    Raises:
      RunDirError: a checkpoint cannot be restored and is still there.
    """
    for step in steps:
        try:
            restore(step)
        except RunDirError:
            # The manifest is the first file that is deleted: without it nothing is damaged.
            if step in run.checkpoints().steps():
                raise
            print(f"step {step}: deleted before it was read, left out", file=sys.stderr, flush=True)
            continue
        yield step
