"""The speed of steps, and the length of host loops."""

from __future__ import annotations

DATA_WAIT = "perf/data_wait_fraction"
_DEVICE, _HOST = "perf/device_fraction", "perf/host_fraction"
STEPS_PER_SEC = "perf/steps_per_sec"


class Throughput:
    """Measures host loops, to choose the length of the next one and to report the speed.

    The first one compiles the program, so that its time says nothing about steps: it has one step
    only and is left out of the speed once there is another. A signal waits for the end of a host
    loop, hence `secs_per_loop`. `rate` is the tag of the speed in units of data.
    """

    def __init__(self, secs_per_loop: float, rate: str):
        self._secs_per_loop = secs_per_loop
        self._rate = rate
        self._loops = 0
        self._secs_per_step: float | None = None
        self.start_window()

    def steps(self, most: int) -> int:
        """Returns the number of steps of the next host loop, from 1 to `most`."""
        if self._secs_per_step is None:
            return 1
        return max(1, min(most, int(self._secs_per_loop / self._secs_per_step)))

    def add(
        self,
        steps: int,
        units: float,
        secs: float,
        wait_secs: float = 0.0,
        device_secs: float = 0.0,
    ) -> None:
        """Adds a host loop of `steps` steps with `units` of data.

        Of its `secs`, it waited `wait_secs` for data, and the devices computed for `device_secs`.
        """
        secs = max(secs, 1e-9)
        self._loops += 1
        if self._loops > 1:
            self._secs_per_step = secs / steps
        if self._loops == 2:
            self.start_window()
        self._steps += steps
        self._units += units
        self._secs += secs
        self._wait_secs += wait_secs
        self._device_secs += device_secs

    def add_host_secs(self, secs: float) -> None:
        """Adds time after a host loop in which the host wrote its results."""
        self._secs += secs

    def rates(self) -> dict[str, float]:
        """Returns steps and units per second since the start of the window, by tag.

        And three shares of this time, which add up to 1: waiting for data, computing on the
        devices, and work of the host. Actions, such as evaluations, are not part of it.
        """
        waiting = min(1.0, self._wait_secs / self._secs)
        computing = min(1.0 - waiting, self._device_secs / self._secs)
        return {
            STEPS_PER_SEC: self._steps / self._secs,
            self._rate: self._units / self._secs,
            DATA_WAIT: waiting,
            _DEVICE: computing,
            _HOST: 1.0 - waiting - computing,
        }

    def start_window(self) -> None:
        """Starts the window over which the speed is measured."""
        self._steps, self._units = 0, 0.0
        self._secs = self._wait_secs = self._device_secs = 0.0
