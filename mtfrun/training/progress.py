"""Progress line and progress bar of training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

from mtfrun import processes
from mtfrun.models import Reporting
from mtfrun.training.pace import DATA_WAIT
from mtfrun.training.step import SKIPPED

# The least share of the time that a line mentions.
_LEAST_WAIT = 0.01


class Progress:
    """Prints a line at every point of the curves; on a terminal a bar as well.

    Args:
      first_step: where this process starts.
      train_steps: where it ends.
      stream: by default standard error.
      reporting: which metrics to print, and the unit of the speed.
    """

    def __init__(
        self,
        first_step: int,
        train_steps: int,
        stream: TextIO | None = None,
        *,
        reporting: Reporting = Reporting(),
    ):
        self._reporting = reporting
        self._stream = stream or sys.stderr
        self._train_steps = train_steps
        self._bar = tqdm(
            total=train_steps,
            initial=first_step,
            unit="step",
            file=self._stream,
            disable=not (self._stream.isatty() and processes.is_first()),
            leave=False,
        )

    def advance(self, steps: int) -> None:
        """Advances the bar."""
        self._bar.update(steps)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Prints "step 300/2000  loss 2.31  lr 1e-03  41.2k tok/s  eta 1:20".

        If updates were skipped, "skipped 2" stands after the learning rate; if the devices wait for
        data 1 % of the time or more, "data wait 12%" before the eta.
        """
        parts = [f"step {step}/{self._train_steps}"]
        parts += [
            f"{name} {values[name]:.4f}" for name in self._reporting.progress if name in values
        ]
        parts.append(f"lr {values['learning_rate']:.2e}")
        if values.get(SKIPPED):
            parts.append(f"skipped {values[SKIPPED]:.0f}")
        rate = values.get("perf/steps_per_sec", 0.0)
        if self._reporting.rate in values:
            speed = _short(values[self._reporting.rate])
            parts.append(f"{speed} {self._reporting.short_unit}/s")
        if values.get(DATA_WAIT, 0.0) >= _LEAST_WAIT:
            parts.append(f"data wait {values[DATA_WAIT]:.0%}")
        if rate:
            parts.append(f"eta {_duration((self._train_steps - step) / rate)}")
        self.note("  ".join(parts))

    def note(self, text: str) -> None:
        """Prints a line above the bar; of several processes only the first one does."""
        if not processes.is_first():
            return
        tqdm.write(text, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()


def _short(number: float) -> str:
    """Returns "41.2k" for 41200."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def _duration(secs: float) -> str:
    """Returns "1:20" for 80 seconds."""
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
