"""The training loop: steps on the devices, then hooks and actions on the host."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from mtfrun import mtf, processes
from mtfrun.checkpoints import Manifest
from mtfrun.data import Infeed
from mtfrun.display.progress import note, waiting
from mtfrun.display.table import label_lines
from mtfrun.metrics.event_files import Summaries
from mtfrun.models import NonFiniteError
from mtfrun.rundir import RunDirectory
from mtfrun.training import clock
from mtfrun.training.hooks.actions import Action, ActionContext, MetricHistory, Schedule
from mtfrun.training.hooks.finite import BadStep, FiniteGuard
from mtfrun.training.hooks.hook import Hook, HostRecord, listener
from mtfrun.training.hooks.saving import Saver
from mtfrun.training.hooks.throughput import ProcessCost
from mtfrun.training.host_loop import HostLoop
from mtfrun.training.log import Log, Progress
from mtfrun.training.options import TrainOptions
from mtfrun.training.signals import Stopped, StopSignals
from mtfrun.training.state import TrainState

# Called with a model's variables by path, and the vocabulary sizes by the path of embeddings.
Initialise = Callable[[Mapping[str, mtf.Variable], Mapping[str, int]], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """How a training is described and recorded.

    Attributes:
      texts: Markdown by tag, for TensorBoard: the configuration, the command.
      summary: lines by their labels, printed before the first step, about which one is added.
      recording: returns a context that is entered after restoring the checkpoint and reading the
        first batches, before the first write to the run directory, and left at the end.
      metadata: entries of manifests, JSON by name, besides mesh, layout, seed and position.
      check: may raise an InputError for the manifest of a checkpoint not to be restored.
    """

    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    summary: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recording: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    check: Callable[[Manifest], None] | None = None


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
    hooks: Sequence[Hook] = (),
    actions: Sequence[Action] = (),
    init_checkpoint: Initialise | None = None,
    description: Description | None = None,
    cost: ProcessCost | None = None,
) -> TrainResult:
    """Trains to `options.train_steps`, from the newest good checkpoint of the run if there is one.

    The caller holds the run's lock. Collective: the first process holds it, writes and prints.
    After SIGTERM, SIGINT or SIGHUP the current steps, or the current part of an action that checks
    for signals, are finished and saved; a second signal ends the process immediately, see
    `handle_signals`. A run that has reached its last step before is not changed.

    Args:
      state: is initialised.
      infeed: endless batches; its position is saved and restored with every checkpoint.
      hooks: called after every host loop, see `TrainOptions.make_hooks`; the caller ends them.
      actions: called periodically, after checkpoints that are due at the same step.
      init_checkpoint: called if the run has no checkpoint yet; it may set the variables, and
        returns a report to print, or None.
      cost: gets the costs of the training in this process.

    Raises:
      NonFiniteError: the loss, the gradients or a variable is not finite; the message says which,
        at which step, and from which checkpoint to resume.
      RunDirError: a checkpoint is incompatible with the model, or cannot be written.
    """
    description, cost = description or Description(), cost or ProcessCost()
    loop = _Loop(state, infeed, run, options, hooks, actions, description, cost)
    start = loop.restore(init_checkpoint)
    with contextlib.ExitStack() as stack:
        stack.callback(infeed.close)
        stack.callback(loop.saver.close)
        if loop.step >= options.train_steps:
            note(f"already finished at step {loop.step}; raise TRAIN_STEPS to train more")
            if not any(True for _ in loop.schedule.missing(loop.step, is_last=True)):
                return TrainResult(loop.step, {}, None)
        loop.open(stack, start)
        try:
            return loop.train()
        except BadStep as bad:
            raise loop.error(bad) from None


@dataclasses.dataclass
class _Loop:
    """A training in this process; `open` sets the attributes without a default."""

    state: TrainState
    infeed: Infeed
    run: RunDirectory
    options: TrainOptions
    hooks: Sequence[Hook]
    actions: Sequence[Action]
    description: Description
    cost: ProcessCost
    step: int = dataclasses.field(default=0, init=False)
    stop_reason: str | None = dataclasses.field(default=None, init=False)  # of an action here
    progress: Progress = dataclasses.field(init=False)
    signals: StopSignals = dataclasses.field(default_factory=StopSignals, init=False)
    summaries: Summaries = dataclasses.field(init=False)
    metrics: MetricHistory = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        state, infeed, run, options = self.state, self.infeed, self.run, self.options
        infeed.with_digests = any(hook.reads_digests for hook in self.hooks)
        self.host_loop = HostLoop(state, infeed, options, run.path, self.cost.products)
        self.guard = FiniteGuard(state, run, skips=options.skips)
        self.log = Log(state, infeed, options, self.guard, self.cost.products)
        self.saver = Saver(
            state,
            infeed,
            run,
            options.checkpoints,
            self.log.curves,
            self.guard,
            self.hooks,
            self.description.metadata,
        )
        self.schedule = Schedule([self.saver, *self.actions])

    def restore(self, init_checkpoint: Initialise | None) -> str:
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

    def open(self, stack: contextlib.ExitStack, start: str) -> None:
        step, run, description = self.step, self.run, self.description
        self.progress = Progress(
            step, self.options.train_steps, reporting=self.state.model.reporting
        )
        stack.callback(self.progress.close)
        stack.enter_context(self.signals.handling())
        with waiting("reading the first batches"):  # unreadable data are an error of one line
            self.infeed.check(1)
        stack.enter_context(description.recording())
        stack.enter_context(run.log())
        listen = listener(self.hooks, run, step, "train")
        self.summaries = stack.enter_context(
            run.summaries("train", resumed_step=step, listener=listen)
        )
        for tag, text in description.texts.items():
            self.summaries.text(tag, text, step)
        summary = {**description.summary, "start": start}
        self.progress.note(label_lines(summary, self.progress.stream))
        self.metrics = MetricHistory(run, step)

    def train(self) -> TrainResult:
        last = self.options.train_steps
        if self.step == 0:
            self._call(self.schedule.at_start())
        else:
            # First what a kill has left undone: its metrics belong to this step.
            self._call(self.schedule.missing(self.step, is_last=self.step >= last))
            self._call(self.schedule.on_resume())
            if self._is_stopped("already ended"):
                return TrainResult(self.step, {}, None)
        if self.step >= last:
            return TrainResult(self.step, self.log.values, self.signals.agree())

        for hook in self.hooks:
            hook.begin(self.state, self.run, self.step)
        while self.step < last and self.signals.agree() is None:
            try:
                record = self._take_steps()
            except Stopped:
                return TrainResult(self.step, {}, self.signals.agree(), is_saved=self.step > 0)
            for hook in self.hooks:
                with self._measure(hook.cause):
                    hook.after_steps(record)
            with self._measure("curves"):
                if self.guard.check_steps(record):
                    self.progress.note(self.guard.describe_skipped(record, self.host_loop.features))
                self.log.write(record, self.summaries, self.progress)
                self.saver.poll()
            # Saving first, then evaluation and other actions.
            self._call(self.schedule.due(record.step, self.step, self.metrics))
            if self._is_stopped("ending"):
                break

        self._call(self.schedule.at_end(self.step, self.metrics))
        with self._measure(self.saver.cause):
            self.saver.finish()
        return TrainResult(self.step, self.log.values, self.signals.agree())

    def _take_steps(self) -> HostRecord:
        """Trains on the devices up to the next stop; raises Stopped by a signal before any step."""
        step, hooks = self.step, self.hooks
        stops = [*(hook.next_step(step) for hook in hooks), self.schedule.next_step(step)]
        count = processes.agree(self.host_loop.next_steps(step, stops), "steps of a host loop")
        self.signals.finishing = f"step {step + count:,}"
        is_compiled = self.host_loop.loops > 0
        with contextlib.nullcontext() if is_compiled else self.signals.abandoning():
            record = self.host_loop.run(step, count)
        self.step += count
        self.log.add_speed(record)
        self.cost.add("waiting for data", record.wait_secs)
        self.cost.add("steps" if is_compiled else "compilation", record.secs - record.wait_secs)
        return record

    def _call(self, actions: Iterable[Action]) -> None:
        context = ActionContext(
            step=self.step,
            values=self.log.values,
            state=self.state,
            batch=lambda: self.host_loop.batch(self.step),
            summaries=self.summaries,
            note=self.progress.note,
            metrics=self.metrics,
            check_signals=self.signals.check,
            request_stop=self._request_stop,
        )
        for action in actions:
            if action.after_saving:
                self.saver.finish()
            with self.cost.measure(action.cause), contextlib.suppress(Stopped):
                action(context)
            added = self.metrics.at(self.step)
            if added:
                self.schedule.check_metrics(added.keys())
                self.saver.consider_best(self.step, added)

    @contextlib.contextmanager
    def _measure(self, cause: str) -> Iterator[None]:
        """Adds the time of the block to the cost, and to what lowers the speed."""
        start = clock.seconds()
        with self.cost.measure(cause):
            yield
        self.log.throughput.add_host_secs(clock.seconds() - start)

    def _request_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    def _is_stopped(self, what: str) -> bool:
        reasons = processes.gather(self.stop_reason, "reason to stop")
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            self.progress.note(f"{what} at step {self.step}: {reason}")
        return reason is not None

    def error(self, bad: BadStep) -> NonFiniteError:
        self.saver.finish_before_error()  # it names the newest checkpoint
        host = self.host_loop
        return self.guard.error(bad, host.features, host.index(bad.step), self.saver.good_step)
