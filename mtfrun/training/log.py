"""The log of a training: curves in TensorBoard, lines on the terminal, the speed of the run."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.display.progress import warning
from mtfrun.metrics.charts import write_metrics
from mtfrun.metrics.event_files import Summaries
from mtfrun.training.curves import EXAMPLES_SEEN, SKIPPED_STEPS, Curves
from mtfrun.training.hooks.finite import FiniteGuard
from mtfrun.training.hooks.hook import HostRecord
from mtfrun.training.hooks.progress import Progress
from mtfrun.training.hooks.stragglers import Stragglers
from mtfrun.training.hooks.throughput import STEPS_PER_SEC, Machine, Throughput
from mtfrun.training.options import TrainOptions
from mtfrun.training.state import TrainState


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
        self.throughput = Throughput(options.secs_per_loop, reporting.rate)
        self._machine = Machine(state.mesh, products)
        self._stragglers = Stragglers(state.mesh.devices[0])
        self._infeed = infeed
        self._guard = guard

    def add_speed(self, record: HostRecord, secs: float, wait_secs: float) -> None:
        self.throughput.add(record.count, record.units, secs, wait_secs, record.device_secs)
        self._stragglers.add(record.count, record.device_secs)

    def write(self, record: HostRecord, summaries: Summaries, progress: Progress) -> None:
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
            progress.line(step, self.values)
        if has_values:
            self.throughput.start_window()
        progress.advance(record.count)
        for line in self._stragglers.find() if has_values else ():
            progress.note(warning(line))
        summaries.flush()

    def _counts_until(self, record: HostRecord, step: int) -> dict[str, float]:
        steps_ago = record.step + record.count - step
        seen = self._infeed.examples_seen(steps_ago)  # by task, "" being a single one
        counts = {f"{EXAMPLES_SEEN}/{name}".rstrip("/"): count for name, count in seen.items()}
        skipped = self._guard.count_skipped(step)
        return counts if skipped is None else {**counts, SKIPPED_STEPS: float(skipped)}
