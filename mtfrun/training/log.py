"""The log of a training: curves in TensorBoard, lines on the terminal, the speed of the run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TextIO

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.display import progress
from mtfrun.display.formats import duration_text, short_number
from mtfrun.display.streams import Style
from mtfrun.display.table import fit_fields
from mtfrun.metrics.charts import write_metrics
from mtfrun.metrics.event_files import Summaries
from mtfrun.models import Reporting
from mtfrun.training.curves import EXAMPLES_SEEN, SKIPPED_STEPS, Curves
from mtfrun.training.hooks.finite import FiniteGuard
from mtfrun.training.hooks.hook import HostRecord
from mtfrun.training.hooks.stragglers import Stragglers
from mtfrun.training.hooks.throughput import DATA_WAIT, STEPS_PER_SEC, Machine, Throughput
from mtfrun.training.options import TrainOptions
from mtfrun.training.state import TrainState

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
        fields: list[tuple[str, Style | None]] = [(f"step {step}/{self.train_steps}", "bold")]
        fields += [
            (f"{name} {values[name]:.4f}", None)
            for name in self.reporting.progress
            if name in values
        ]
        fields.append((f"lr {values['learning_rate']:.2e}", None))
        if values.get(SKIPPED_STEPS):
            fields.append((f"skipped {values[SKIPPED_STEPS]:.0f}", "yellow"))
        rate = values.get(STEPS_PER_SEC, 0.0)
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


class Log:
    """Averages the metrics of steps, measures their speed, and writes both. Collective.

    `values`: the newest values of the curves, by tag; empty before the first window's end.
    """

    def __init__(
        self,
        state: TrainState,
        infeed: Infeed,
        options: TrainOptions,
        guard: FiniteGuard,
        products: mtf.FlopCount,
    ) -> None:
        reporting = state.model.reporting
        self.values: Mapping[str, float] = {}
        self.curves = Curves(
            options.log_every_steps, options.train_steps, with_perplexity=reporting.with_perplexity
        )
        self.throughput = Throughput(reporting.rate)
        self._machine = Machine(state.mesh, products)
        self._stragglers = Stragglers(state.mesh.devices[0])
        self._infeed = infeed
        self._guard = guard

    def add_speed(self, record: HostRecord) -> None:
        self.throughput.add(
            record.count, record.units, record.secs, record.wait_secs, record.device_secs
        )
        self._stragglers.add(record.count, record.device_secs)

    def write(self, record: HostRecord, summaries: Summaries, lines: Progress) -> None:
        has_values = False
        for step, means in self.curves.add(
            record.step, record.count, record.metrics, record.values, record.record.skipped
        ):
            has_values = True
            rates = self.throughput.rates()
            speed = self._machine.speed(rates[STEPS_PER_SEC])
            counts = self._counts_until(record, step)
            self.values = {**means, **rates, **speed, **self._machine.memory(), **counts}
            write_metrics(summaries, self.values, step)
            lines.line(step, self.values)
        if has_values:
            self.throughput.start_window()
        lines.advance(record.count)
        for line in self._stragglers.find() if has_values else ():
            lines.note(progress.warning(line))
        summaries.flush()

    def _counts_until(self, record: HostRecord, step: int) -> dict[str, float]:
        steps_ago = record.step + record.count - step
        seen = self._infeed.examples_seen(steps_ago)  # by task, "" being a single one
        counts = {f"{EXAMPLES_SEEN}/{name}".rstrip("/"): count for name, count in seen.items()}
        skipped = self._guard.count_skipped(step)
        return counts if skipped is None else {**counts, SKIPPED_STEPS: float(skipped)}
