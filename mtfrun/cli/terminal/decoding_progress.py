"""Saying how far a long decode is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY_SECS = 10.0


def decoding_progress(
    total: int, clock: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """Returns a function that is told how many of `total` prompts are done, and prints that to
    standard error every ten seconds."""
    start = last = clock()

    def say(done: int) -> None:
        nonlocal last
        now = clock()
        if now - last < EVERY_SECS:
            return
        last = now
        rest = (now - start) / done * (total - done)
        print(f"decoded {done}/{total}  eta {rest:.0f} s", file=sys.stderr, flush=True)

    return say
