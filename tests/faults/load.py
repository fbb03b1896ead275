"""How much slower this machine is at the moment because others use it."""

from __future__ import annotations

import hashlib
import time

# Work of about a third of a second.
_ROUNDS = 400_000


def slowdown() -> float:
    """Returns the wall time of some work divided by its CPU time, 1.0 on a quiet machine.

    Limits of seconds are multiplied by it.
    """
    wall, cpu = time.perf_counter(), time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"", b"", _ROUNDS)
    return max(1.0, (time.perf_counter() - wall) / (time.thread_time() - cpu))
