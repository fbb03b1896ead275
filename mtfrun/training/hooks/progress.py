"""Run summary, progress line and progress bar of training."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TextIO

from mtfrun.display import progress
from mtfrun.display.formats import duration_text, short_number
from mtfrun.display.table import fit_fields
from mtfrun.models import Reporting
from mtfrun.training.curves import SKIPPED_STEPS
from mtfrun.training.hooks.throughput import DATA_WAIT

# The least share of the time that a line mentions.
_LEAST_WAIT = 0.01
_INDENT = 4


@dataclasses.dataclass
class Progress:
    """Prints a line for every value of the curves; on a terminal a bar as well."""

    first_step: int
    train_steps: int
    stream: TextIO = dataclasses.field(default_factory=lambda: sys.stderr)
    reporting: Reporting = Reporting()
    _work: progress.Work | None = dataclasses.field(default=None, init=False)

    def advance(self, steps: int) -> None:
        """Advances the bar, which appears at the first call: compilation has no progress."""
        if self._work is None:
            self._work = progress.Work(
                "training",
                self.train_steps,
                "steps",
                done=self.first_step + steps,
                has_lines=False,
                stream=self.stream,
            )
        else:
            self._work.advance(steps)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Prints "step 300/2000  loss 2.31  lr 1e-03  41.2k tok/s  eta 1:20".

        If updates were skipped, "skipped 2" stands after the learning rate; if the devices wait for
        data 1 % of the time or more, "data wait 12%" before the eta.
        """
        fields: list[tuple[str, progress.Style | None]] = [
            (f"step {step}/{self.train_steps}", "bold")
        ]
        fields += [
            (f"{name} {values[name]:.4f}", None)
            for name in self.reporting.progress
            if name in values
        ]
        fields.append((f"lr {values['learning_rate']:.2e}", None))
        if values.get(SKIPPED_STEPS):
            fields.append((f"skipped {values[SKIPPED_STEPS]:.0f}", "yellow"))
        rate = values.get("perf/steps_per_sec", 0.0)
        if self.reporting.rate in values:
            speed = short_number(values[self.reporting.rate])
            fields.append((f"{speed} {self.reporting.short_unit}/s", None))
        if values.get(DATA_WAIT, 0.0) >= _LEAST_WAIT:
            fields.append((f"data wait {values[DATA_WAIT]:.0%}", "yellow"))
        if rate:
            fields.append((f"eta {duration_text((self.train_steps - step) / rate)}", None))
        self.note(fit_fields(fields, indent=_INDENT, stream=self.stream))

    def note(self, text: str) -> None:
        progress.note(text, self.stream)

    def close(self) -> None:
        if self._work is not None:
            self._work.close()
