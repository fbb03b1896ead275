"""Measurement of the time that steps take."""

from __future__ import annotations

DATA_WAIT = "perf/data_wait_fraction"
_DEVICE, _HOST = "perf/device_fraction", "perf/host_fraction"
STEPS_PER_SEC = "perf/steps_per_sec"


class Pace:
    """Measures visits of the devices, to choose the length of the next one and to report the speed.

    The first visit compiles the program, so that its time says nothing about steps: it has one step
    only and is left out of the speed once there is another.

    Args:
      visit_secs: largest time of a visit in seconds. A signal waits for the end of a visit.
      rate: tag of the speed in units of data.
    """

    def __init__(self, visit_secs: float, rate: str):
        self._visit_secs = visit_secs
        self._rate = rate
        self._visits = 0
        self._secs_per_step: float | None = None
        self.start_window()

    def steps(self, most: int) -> int:
        """Returns the number of steps of the next visit, from 1 to `most`."""
        if self._secs_per_step is None:
            return 1
        return max(1, min(most, int(self._visit_secs / self._secs_per_step)))

    def add(
        self,
        steps: int,
        units: float,
        secs: float,
        wait_secs: float = 0.0,
        device_secs: float = 0.0,
    ) -> None:
        """Adds a visit.

        Args:
          steps: that it had.
          units: of data in them.
          secs: of all of it.
          wait_secs: of them, until there were data.
          device_secs: of them, in which the devices computed.
        """
        secs = max(secs, 1e-9)
        self._visits += 1
        if self._visits > 1:
            self._secs_per_step = secs / steps
        if self._visits == 2:
            self.start_window()
        self._steps += steps
        self._units += units
        self._secs += secs
        self._wait_secs += wait_secs
        self._device_secs += device_secs

    def add_host_secs(self, secs: float) -> None:
        """Adds time after a visit in which the host wrote its results."""
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
