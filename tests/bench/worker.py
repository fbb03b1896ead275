"""The inside of a measured process: set up once, then run as many steps as it is told to.

Each subject of a comparison runs in a process of its own, so that start-up, memory and simulated
devices are its own; `alternate.py` lets them run in turn.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(setup: Callable[[], Callable[[], float]], started: float) -> None:
    """Sets up, takes the first step, then takes n more for every line "n" on standard input.

    Args:
      setup: returns the step: a function that blocks until its result, a loss, is there.
      started: the time (time.time()) at which the process began its imports.

    Prints a JSON line after the first step, which traces and compiles, and one with the times of
    every further request.
    """
    step = setup()
    ready = time.time()
    loss = step()
    done = time.time()
    _say(first_step_s=done - started, compile_s=done - ready, first_loss=loss)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            step()
            times.append((time.perf_counter() - begin) * 1e3)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        _say(times_ms=times, peak_mb=peak_mb)


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)
