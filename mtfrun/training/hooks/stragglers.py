"""Finds processes that slow down a run."""

from __future__ import annotations

from collections import Counter

from mtfrun import processes
from mtfrun.processes.group import process_name, this_process
from mtfrun.training import clock
from mtfrun.training.hooks.throughput import products_per_sec

# A process is reported when it is slow in this many consecutive windows of at least this length.
_WINDOWS, _WINDOW_SECS = 3, 2.0
# A process is slow if it delays the run by a larger share of a window, or if the fastest device is
# faster than its device by a larger factor.
_MOST_WAITING, _MOST_SLOWER = 0.25, 2.0
_ROWS, _DTYPE = 512, "float32"


class Stragglers:
    """Compares the speed of the processes of a run.

    A step ends in all processes at the same time, with the slowest one. `find` therefore compares
    the time outside of steps and messages, for data, actions and results, and the speed of matrix
    products on the device of this process, such as "GPU:0".
    """

    def __init__(self, device: str):
        self._device = device
        self._slow: Counter[tuple[int, str]] = Counter()  # consecutive windows
        self._start_window()

    def add(self, steps: int, device_secs: float) -> None:
        self._steps += steps
        self._device_secs += device_secs

    def find(self) -> list[str]:
        if processes.count() == 1:
            return []
        secs = clock.seconds() - self._start
        if processes.agree(secs, "time of a window") < _WINDOW_SECS:
            return []
        host = secs - self._device_secs - (processes.waited_secs() - self._waited_secs)
        speed = products_per_sec(self._device, _DTYPE, _ROWS)
        values = processes.gather([host, speed, this_process()], "speed")
        fastest, highest = min(v[0] for v in values), max(v[1] for v in values)
        slow: dict[tuple[int, str], str] = {}
        for index, (host, speed, place) in enumerate(values):
            name = process_name(index, len(values), place)
            if host - fastest > _MOST_WAITING * secs:
                slow[index, "host"] = (
                    f"{name} is slow: a step takes {1e3 * host / self._steps:.0f} ms there besides "
                    f"the computation, and {1e3 * fastest / self._steps:.0f} ms elsewhere; the "
                    "other processes wait for its data, actions or disk"
                )
            if highest > _MOST_SLOWER * speed:
                slow[index, "device"] = (
                    f"{name} is slow: its device takes {highest / speed:.1f} times as long as the "
                    "fastest one for a product of matrices, and all wait for it"
                )
        self._slow = Counter({key: self._slow[key] + 1 for key in slow})
        self._start_window()
        return [line for key, line in slow.items() if self._slow[key] == _WINDOWS]

    def _start_window(self) -> None:
        self._start = clock.seconds()
        self._waited_secs = processes.waited_secs()
        self._steps, self._device_secs = 0, 0.0
