"""The progress of decoding."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from mtfrun import processes

EVERY_SECS = 10.0


def decoding_progress(
    total: int, clock: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """Returns a function that prints progress to standard error, at most every ten seconds.

    Args:
      total: the number of prompts. The function is called with the number of decoded ones.
      clock: returns seconds.
    """
    start = last = clock()

    def report(done: int) -> None:
        nonlocal last
        now = clock()
        if now - last < EVERY_SECS or not processes.is_first():
            return
        last = now
        remaining = (now - start) / done * (total - done)
        print(f"decoded {done}/{total}  eta {remaining:.0f} s", file=sys.stderr, flush=True)

    return report
