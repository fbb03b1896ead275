"""The main loop of a measured process: sets up once, then runs steps on request.

Each subject of a comparison runs in a process of its own, and so has its own start-up, memory and
simulated devices; `alternate.py` runs them in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable

Step = Callable[[], float]


def serve(setup: Callable[[argparse.Namespace], Step], parser: argparse.ArgumentParser) -> None:
    """Sets up, takes the first step, then takes n more for every line "n" on standard input.

    Prints a JSON line after the first step, which traces and compiles, and one with the times of
    every further request. `setup` returns the step, which returns a loss once it is computed.
    """
    step = setup(parser.parse_args())
    begin = time.perf_counter()
    loss = step()
    compile_secs = time.perf_counter() - begin
    _print(first_step_s=_age_secs(), compile_s=compile_secs, first_loss=loss)
    for line in sys.stdin:
        times, cpu_times = [], []
        for _ in range(int(line)):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            step()
            times.append((time.perf_counter() - begin) * 1e3)
            cpu_times.append((time.process_time() - cpu_begin) * 1e3)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        _print(times_ms=times, cpu_ms=cpu_times, peak_mb=peak_mb)


def _age_secs() -> float:
    """Returns the time since this process began, see proc(5)."""
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _print(**values: object) -> None:
    print(json.dumps(values), flush=True)
