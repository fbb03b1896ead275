"""How long steps take."""

from __future__ import annotations


class Pace:
    """Measures visits of the devices: how many steps fit into the next one, and the speed.

    The first visit compiles the program, so that its time says nothing about steps: it takes one
    step only and does not count for the speed once there is another.

    Args:
      visit_secs: what a visit may last. A signal waits for the end of a visit.
      rate: the name of the speed in units of data.
    """

    def __init__(self, visit_secs: float, rate: str):
        self._visit_secs = visit_secs
        self._rate = rate
        self._visits = 0
        self._secs_per_step: float | None = None
        self.start_window()

    def steps(self, most: int) -> int:
        """Returns the steps of the next visit: at least 1, and `most` at most."""
        if self._secs_per_step is None:
            return 1
        return max(1, min(most, int(self._visit_secs / self._secs_per_step)))

    def add(self, steps: int, units: float, secs: float) -> None:
        """Counts a visit of so many steps, units of data and seconds."""
        secs = max(secs, 1e-9)
        self._visits += 1
        if self._visits > 1:
            self._secs_per_step = secs / steps
        if self._visits == 2:
            self.start_window()
        self._steps += steps
        self._units += units
        self._secs += secs

    def rates(self) -> dict[str, float]:
        """Returns steps and units a second since the window was started."""
        return {
            "perf/steps_per_sec": self._steps / self._secs,
            self._rate: self._units / self._secs,
        }

    def start_window(self) -> None:
        """Lets the speed count from here on."""
        self._steps, self._units, self._secs = 0, 0.0, 0.0
