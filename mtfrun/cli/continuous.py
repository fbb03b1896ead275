"""Following a run that is being trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from mtfrun.rundir import RunDirectory

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
