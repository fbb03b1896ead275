"""The main loop of a measured process: sets up once, then runs steps on request.

Each subject of a comparison runs in a process of its own, and so has its own start-up, memory and
simulated devices; `alternate.py` runs them in turn.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

Step = Callable[[], float]


def serve(setup: Callable[[], Step], started: float) -> None:
    """Sets up, takes the first step, then takes n more for every line "n" on standard input.

    Args:
      setup: returns the step: a function that returns a loss once it is computed.
      started: the time (time.time()) at which the process began its imports.

    Prints a JSON line after the first step, which traces and compiles, and one with the times of
    every further request.
    """
    step = setup()
    set_up = time.time()
    loss = step()
    end = time.time()
    _print(first_step_s=end - started, compile_s=end - set_up, first_loss=loss)
    for line in sys.stdin:
        times, cpu_times = [], []
        for _ in range(int(line)):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            step()
            times.append((time.perf_counter() - begin) * 1e3)
            cpu_times.append((time.process_time() - cpu_begin) * 1e3)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        _print(times_ms=times, cpu_ms=cpu_times, peak_mb=peak_mb)


def _print(**values: object) -> None:
    print(json.dumps(values), flush=True)
