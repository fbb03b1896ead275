"""The trigger of periodic work, by steps and by time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Every:
    """A trigger that is due every so many steps or seconds, whichever comes first.

    Args:
      steps: due at the multiples of it; None for never.
      secs: due when so many seconds have passed since it was last due, or since it was made; None
        for never.
      clock: returns the time in seconds.

    Examples:
      >>> every = Every(steps=10)
      >>> every.next_step(13), every.is_due(19, 20), every.is_due(20, 29)
      (20, True, False)
    """

    def __init__(
        self,
        *,
        steps: int | None = None,
        secs: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._steps = steps
        self._secs = secs
        self._clock = clock
        self._last = clock()

    def next_step(self, step: int) -> int | None:
        """Returns the first step after `step` at which it is due; None without `steps`."""
        return None if self._steps is None else (step // self._steps + 1) * self._steps

    def is_due(self, before: int, after: int) -> bool:
        """Returns whether it became due between step `before` and step `after`."""
        now = self._clock()
        by_step = self._steps is not None and before // self._steps != after // self._steps
        by_time = self._secs is not None and now - self._last >= self._secs
        if by_step or by_time:
            self._last = now
        return by_step or by_time
