"""The training loop: steps on the devices, everything else between them on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from mtfrun import mtf, processes
from mtfrun.data import Infeed
from mtfrun.display.progress import waiting, warning
from mtfrun.models import NonFiniteError
from mtfrun.rundir import Manifest, RunDirectory
from mtfrun.rundir.tensorboard.metric_charts import write_metrics
from mtfrun.rundir.tensorboard.summaries import Listener, Summaries
from mtfrun.training.actions import Action, ActionContext, MetricHistory, Schedule
from mtfrun.training.curves import SKIPPED_STEPS, Curves, examples_seen
from mtfrun.training.finite import BadStep, FiniteGuard
from mtfrun.training.host_loop import HostLoop, HostRecord
from mtfrun.training.ledger import Ledger
from mtfrun.training.options import TrainOptions
from mtfrun.training.progress import Progress
from mtfrun.training.saving import Saver
from mtfrun.training.signals import Stopped, StopSignals
from mtfrun.training.state import TrainState
from mtfrun.training.stragglers import Stragglers
from mtfrun.training.throughput import STEPS_PER_SEC, Machine, ProcessCost, Throughput

# Called with a model's variables by path, and the vocabulary sizes by the path of embeddings.
Initialise = Callable[[Mapping[str, mtf.Variable], Mapping[str, int]], object]


@dataclasses.dataclass(frozen=True)
class Description:
    """How a training is described and recorded.

    Attributes:
      texts: Markdown by tag, for TensorBoard: the configuration, the command.
      summary: lines by their labels, printed before the first step, about which one is added.
      recording: returns a context that is entered after restoring the checkpoint and reading the
        first batches, before the first write to the run directory, and left at the end.
      metadata: entries of manifests, JSON by name, besides mesh, layout, seed and position.
      check: may raise an InputError for a manifest whose checkpoint must not be restored.
      listener: takes the points of the curves too.
    """

    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    summary: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recording: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    check: Callable[[Manifest], None] | None = None
    listener: Listener | None = None


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a call of `train`.

    Attributes:
      values: the newest values of the curves, by tag.
      signal: the number of the signal that stopped it.
      is_saved: whether there is a checkpoint of `step`; not after a signal before the first step.
    """

    step: int
    values: Mapping[str, float]
    signal: int | None
    is_saved: bool = True


def train(
    state: TrainState,
    infeed: Infeed,
    run: RunDirectory,
    options: TrainOptions,
    *,
    actions: Sequence[Action] = (),
    init_checkpoint: Initialise | None = None,
    description: Description | None = None,
    cost: ProcessCost | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Trains to `options.train_steps`, from the newest good checkpoint of the run if there is one.

    The caller holds the run's lock. Collective: the first process holds it, writes and prints.
    After SIGTERM, SIGINT or SIGHUP the current steps, or the current part of an action that checks
    for signals, are finished and saved; a second signal ends the process immediately, see
    `handle_signals`. A run that has reached its last step before is not changed.

    Args:
      state: is initialised.
      infeed: endless batches; its position is saved and restored with every checkpoint.
      actions: called periodically, after checkpoints that are due at the same step.
      init_checkpoint: called if the run has no checkpoint yet; it may set the variables, and
        returns a report to print, or None.
      cost: takes what the training costs in this process.

    Raises:
      NonFiniteError: the loss, the gradients or a variable is not finite; the message says which,
        at which step, and from which checkpoint to resume.
      RunDirError: a checkpoint is incompatible with the model, or cannot be written.
    """
    description = description or Description()
    cost = ProcessCost() if cost is None else cost
    loop = _Loop(state, infeed, run, options, actions, description, cost, clock)
    start = loop.restore(init_checkpoint)
    progress = Progress(loop.step, options.train_steps, reporting=state.model.reporting)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        stack.callback(infeed.close)
        stack.callback(loop.saver.close)
        if loop.step >= options.train_steps:
            progress.note(f"already finished at step {loop.step}; raise TRAIN_STEPS to train more")
            if not any(True for _ in loop.schedule.missing(loop.step, is_last=True)):
                return TrainResult(loop.step, {}, None)
        signals = stack.enter_context(StopSignals())
        with waiting("reading the first batches"):  # unreadable data are an error of one line
            infeed.check(1, options.iterations_per_loop)
        stack.enter_context(description.recording())
        stack.enter_context(run.log())
        summaries = stack.enter_context(
            run.summaries("train", resumed_step=loop.step, listener=description.listener)
        )
        for tag, text in description.texts.items():
            summaries.text(tag, text, loop.step)
        progress.print_summary({**description.summary, "start": start})
        try:
            return loop.train(_Outputs(progress, summaries, signals, MetricHistory(run, loop.step)))
        except BadStep as bad:
            raise loop.error(bad) from None


class _Outputs(NamedTuple):
    """What a loop writes to while it trains, and the signals that it looks for."""

    progress: Progress
    summaries: Summaries
    signals: StopSignals
    metrics: MetricHistory


@dataclasses.dataclass
class _Loop:
    """`stop_reason` is why an action of this process has asked for the end."""

    state: TrainState
    infeed: Infeed
    run: RunDirectory
    options: TrainOptions
    actions: Sequence[Action]
    description: Description
    cost: ProcessCost
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.step = 0
        self.values: Mapping[str, float] = {}
        self.stop_reason: str | None = None
        state, options, reporting = self.state, self.options, self.state.model.reporting
        self.curves = Curves(
            options.log_every_steps, options.train_steps, with_perplexity=reporting.with_perplexity
        )
        self.host_loop = HostLoop(
            state, self.infeed, options, self.run.path, self.cost.products, self.clock
        )
        self.throughput = Throughput(options.secs_per_loop, reporting.rate)
        self.machine = Machine(state.mesh, self.cost.products)
        self.stragglers = Stragglers(state.mesh.devices[0], self.clock)
        self.guard = FiniteGuard(state, self.run, skips=options.skips)
        self.ledger = Ledger(state, self.run)
        self.saver = Saver(
            state,
            self.infeed,
            self.run,
            options.checkpoints,
            self.curves,
            self.guard,
            self.ledger,
            self.description.metadata,
        )
        self.schedule = Schedule([self.saver, *self.actions], self.clock)

    def restore(self, init_checkpoint: Initialise | None) -> str:
        """Initialises the state, or restores the newest good checkpoint; returns a line."""
        with waiting("initialising the variables"):
            self.state.initialize()
        with waiting("restoring the newest checkpoint"):
            step = self.saver.restore(self.description.check)
        processes.by_first(self.run.record().metrics)  # raises if damaged
        self.step = step or 0
        start = f"step {self.step:,} of {self.options.train_steps:,}"
        if self.step:
            return f"resuming from {start}"
        model, report = self.state.model, None
        if step is None and init_checkpoint is not None:
            report = init_checkpoint(model.named_variables(), model.vocabulary_sizes)
        return start if report is None else f"{start}, initialised with {report}"

    def train(self, to: _Outputs) -> TrainResult:
        last, signals = self.options.train_steps, to.signals
        if self.step == 0:
            self._call(self.schedule.at_start(), to)
        else:
            # First what a kill has left undone: its metrics belong to this step.
            self._call(self.schedule.missing(self.step, is_last=self.step >= last), to)
            self._call(self.schedule.on_resume(), to)
            reason = self._agree_on_stop()
            if reason is not None:
                to.progress.note(f"already ended at step {self.step}: {reason}")
                return TrainResult(self.step, {}, None)
        if self.step >= last:
            return TrainResult(self.step, self.values, signals.agree())

        self.ledger.begin(self.step)
        while self.step < last and signals.agree() is None:
            before = self.step
            try:
                record = self._run_steps(to)
            except Stopped:
                return TrainResult(before, {}, signals.agree(), is_saved=before > 0)
            self._write_record(record)
            self._write_values(record, to)
            # Saving first, then evaluation and other actions.
            self._call(self.schedule.due(before, self.step, to.metrics), to)
            reason = self._agree_on_stop()
            if reason is not None:
                to.progress.note(f"ending at step {self.step}: {reason}")
                break

        self._call(self.schedule.at_end(self.step, to.metrics), to)
        start = self.clock()
        self.saver.finish()
        self.cost.add(self.saver.cause, self.clock() - start)
        return TrainResult(self.step, self.values, signals.agree())

    def _run_steps(self, to: _Outputs) -> HostRecord:
        """Trains on the devices up to the next stop; raises Stopped by a signal before any step."""
        count = processes.agree(self._next_steps(), "steps of a host loop")
        to.signals.finishing = f"step {self.step + count:,}"
        start, waited = self.clock(), self.infeed.wait_secs
        is_compiled = self.host_loop.loops > 0
        with (
            self.host_loop.profiling(),
            contextlib.nullcontext() if is_compiled else to.signals.abandoning(),
        ):
            record = self.host_loop.run(self.step, count)
        self.step += count
        secs, waited = self.clock() - start, self.infeed.wait_secs - waited
        self.throughput.add(count, record.units, secs, waited, record.device_secs)
        self.cost.add("waiting for data", waited)
        self.cost.add("steps" if is_compiled else "compilation", secs - waited)
        self.stragglers.add(count, record.device_secs)
        return record

    def _write_record(self, record: HostRecord) -> None:
        start = self.clock()
        self.ledger.add(record)
        secs = self.clock() - start
        self.throughput.add_host_secs(secs)
        self.cost.add("ledger", secs)

    def _write_values(self, record: HostRecord, to: _Outputs) -> None:
        """Checks what the steps have computed, and writes the points of the curves among them."""
        if self.guard.check_steps(record):
            to.progress.note(self.guard.describe_skipped(record, self.host_loop.features))
        start, has_values = self.clock(), False
        for step, means in self.curves.add(
            *(record.step, record.count, record.metrics, record.values, record.record.skipped)
        ):
            has_values = True
            self.values = {**means, **self._speed(), **self._data_until(step)}
            write_metrics(to.summaries, self.values, step)
            to.progress.line(step, self.values)
        if has_values:
            self.throughput.start_window()
        to.progress.advance(record.count)
        for line in self.stragglers.find() if has_values else ():
            to.progress.note(warning(line))
        to.summaries.flush()
        self.saver.poll()
        secs = self.clock() - start
        self.throughput.add_host_secs(secs)
        self.cost.add("curves", secs)

    def _call(self, actions: Iterable[Action], to: _Outputs) -> None:
        context = ActionContext(
            step=self.step,
            values=self.values,
            state=self.state,
            batch=lambda: self.host_loop.batch(self.step),
            summaries=to.summaries,
            note=to.progress.note,
            metrics=to.metrics,
            check_signals=to.signals.check,
            request_stop=self._request_stop,
        )
        for action in actions:
            if action.after_saving:
                self.saver.finish()
            start = self.clock()
            with contextlib.suppress(Stopped):
                action(context)
            self.cost.add(action.cause, self.clock() - start)
            added = to.metrics.at(self.step)
            if added:
                self.schedule.check_metrics(added.keys())
                self.saver.consider_best(self.step, added)

    def error(self, bad: BadStep) -> NonFiniteError:
        self.saver.finish_before_error()  # it names the newest checkpoint
        host = self.host_loop
        return self.guard.error(bad, host.features, host.index(bad.step), self.saver.good_step)

    def _request_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    def _agree_on_stop(self) -> str | None:
        reasons = processes.gather(self.stop_reason, "reason to stop")
        return next((reason for reason in reasons if reason is not None), None)

    def _next_steps(self) -> int:
        iterations = self.options.iterations_per_loop
        stops = [
            self.options.train_steps,
            # At the multiples, so that host loops end where windows of the curves do.
            (self.step // iterations + 1) * iterations,
            self.ledger.next_step(self.step),
            self.schedule.next_step(self.step),
        ]
        return self.throughput.steps(min(stop for stop in stops if stop is not None) - self.step)

    def _speed(self) -> dict[str, float]:
        rates = self.throughput.rates()
        return {**rates, **self.machine.speed(rates[STEPS_PER_SEC]), **self.machine.memory()}

    def _data_until(self, step: int) -> dict[str, float]:
        """Returns the numbers of examples and of skipped updates up to a step of the last loop."""
        seen = examples_seen(self.infeed.examples_seen(self.step - step))
        skipped = self.guard.count_skipped(step)
        return seen if skipped is None else {**seen, SKIPPED_STEPS: float(skipped)}
