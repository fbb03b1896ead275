"""The training loop: steps on the devices, everything else between them on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import tensorflow as tf

from mtfrun import mtf, processes
from mtfrun.data import Infeed, Padding
from mtfrun.display.progress import note, waiting, warning
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.tensorboard.metric_charts import write_metrics
from mtfrun.rundir.tensorboard.summaries import Summaries
from mtfrun.training.actions import Action, ActionContext, DueActions
from mtfrun.training.curves import (
    Curves,
    History,
    examples_seen,
    padding_history,
    summaries_history,
    with_norms,
)
from mtfrun.training.finite import FiniteGuard
from mtfrun.training.laggards import Laggards
from mtfrun.training.machine import Machine
from mtfrun.training.metric_history import MetricHistory
from mtfrun.training.norms import Norms
from mtfrun.training.options import TrainOptions
from mtfrun.training.pace import STEPS_PER_SEC, Pace
from mtfrun.training.profiling import profiled
from mtfrun.training.progress import Progress
from mtfrun.training.saving import Metadata, Saving
from mtfrun.training.signals import Stopped, StopSignals
from mtfrun.training.state import TrainState
from mtfrun.training.step import OBJECTIVE, SKIPPED, Features, train_steps_function

# Called with a model's variables by path, and the vocabulary sizes by the path of embeddings.
Initialise = Callable[[Mapping[str, mtf.Variable], Mapping[str, int]], object]


@dataclasses.dataclass(frozen=True)
class Description:
    """How a training is described and recorded.

    Attributes:
      texts: Markdown by tag, for TensorBoard: the configuration, the command.
      header: lines by their labels, printed when there is data and before the first step; a line
        about that step is added.
      recorded: returns a context that is entered after restoring the checkpoint and reading the
        first batches, before the first write to the run directory, and left at the end.
    """

    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    header: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recorded: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a call of `train`.

    Attributes:
      step: finished steps.
      values: the last point of the curves, by tag; empty if none was reached.
      signal: the number of the signal that stopped it, or None.
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
    metadata: Metadata | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Trains to `options.train_steps`, from the newest good checkpoint of the run if there is one.

    The caller holds the run's lock. Of several processes all call it, and the first one holds the
    lock, writes and prints. After SIGTERM, SIGINT or SIGHUP the current steps, or the
    current part of an action that checks for signals, are finished and saved; a second signal ends
    the process immediately, see `handled`. A run that has reached its last step before is not
    changed.

    Args:
      state: is initialised.
      infeed: endless batches; its position is saved and restored with every checkpoint.
      run: where checkpoints and summaries go.
      options: how long and how to train.
      actions: called periodically, after checkpoints that are due at the same step.
      init_checkpoint: called if the run has no checkpoint yet; it may set the variables, and
        returns a report to print, or None.
      description: what is shown of the training before its first step.
      metadata: more of the checkpoints' manifests.
      clock: returns the time in seconds.

    Raises:
      NonFiniteError: the loss, the gradients or a variable is not finite; the message says which,
        at which step, and from which checkpoint to go on.
      RunDirError: a checkpoint does not fit the model, or cannot be written.
    """
    loop = _Loop(state, infeed, run, options, actions, metadata or Metadata(), clock)
    first_step = loop.restore(init_checkpoint)
    progress = Progress(first_step, options.train_steps, reporting=state.model.reporting)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        stack.callback(infeed.close)
        stack.callback(loop.close)
        is_finished = first_step >= options.train_steps
        if is_finished:
            progress.note(f"already finished at step {first_step}; raise TRAIN_STEPS to go on")
            if not loop.is_any_missing(first_step):
                return TrainResult(first_step, {}, None)
        signals = stack.enter_context(StopSignals())
        description = description or Description()
        loop.check_data()
        stack.enter_context(description.recorded())
        stack.enter_context(run.log())
        summaries = stack.enter_context(run.summaries("train", resumed_step=first_step))
        for tag, text in description.texts.items():
            summaries.text(tag, text, first_step)
        start = f"step {first_step:,} of {options.train_steps:,}"
        if first_step:
            start = f"going on from {start}"
        elif loop.init_checkpoint is not None:
            start += f", initialised with {loop.init_checkpoint}"
        header = {**description.header, "start": start}
        return loop.run(progress, summaries, signals, header)


class _Loop:
    """State of one call of `train`; see there for the arguments."""

    def __init__(
        self,
        state: TrainState,
        infeed: Infeed,
        run: RunDirectory,
        options: TrainOptions,
        actions: Sequence[Action],
        metadata: Metadata,
        clock: Callable[[], float],
    ):
        self._state = state
        self._infeed = infeed
        self._run = run
        self._options = options
        self._clock = clock
        self._reporting = state.model.reporting
        self._curves = Curves(
            options.log_every_steps,
            options.train_steps,
            with_perplexity=self._reporting.with_perplexity,
        )
        self._norms = Norms(state.trainable, options.log_every_steps, options.train_steps)
        products = mtf.FlopCount()
        self._machine = Machine(state.mesh, products)
        self._laggards = Laggards(state.mesh.devices[0], clock)
        self._steps_function = train_steps_function(
            state,
            microbatches=options.microbatches,
            clip_norm=options.clip_norm,
            skip_non_finite=options.skips,
            norms=self._norms,
            products=products,
            jit_compile=options.uses_xla(state.mesh),
        )
        self._guard = FiniteGuard(state, run, skips=options.skips)
        self._saving = Saving(
            state,
            infeed,
            run,
            options.checkpoints,
            curves=self._curves,
            guard=self._guard,
            check=self._check_variables,
            metadata=metadata,
        )
        self._actions = DueActions([self._saving, *actions], clock, self._saving.finish)
        self._pace = Pace(options.secs_per_loop, self._reporting.rate)
        self._features: Features = {}  # of the last visit
        self._last_index = 0  # of its last step
        self._batch_at = mtf.function(
            lambda features, i: {n: mtf.gather(x, i, x.shape[0]) for n, x in features.items()}
        )
        self._visits = 0
        self._device_secs = 0.0  # of the last visit
        self._values: dict[str, float] = {}  # the newest point of the curves
        self._stop_reason: str | None = None
        self.init_checkpoint: object = None

    def restore(self, init_checkpoint: Initialise | None) -> int:
        """Initialises the state, or restores the newest good checkpoint, and returns its step."""
        with waiting("initialising the variables"):
            self._state.initialize()
        with waiting("restoring the newest checkpoint"):
            step = self._saving.restore()
        processes.by_first(self._run.record().metrics)  # raises if damaged
        if step is None and init_checkpoint is not None:
            model = self._state.model
            self.init_checkpoint = init_checkpoint(model.named_variables(), model.vocabulary_sizes)
        return step or 0

    def check_data(self) -> None:
        """Reads the first batches, so that unreadable data are an error of one line."""
        with waiting("reading the first batches"):
            self._infeed.check(1, self._options.iterations_per_loop)

    def run(
        self,
        progress: Progress,
        summaries: Summaries,
        signals: StopSignals,
        header: Mapping[str, str],
    ) -> TrainResult:
        """Visits the devices until the last step, or until a signal or an action ends training."""
        step = self._state.finished_steps
        metrics = MetricHistory(self._run, step, self._consider_best)

        def context() -> ActionContext:
            return ActionContext(
                step=step,
                values=self._values,
                state=self._state,
                batch=self._last_batch,
                summaries=summaries,
                note=progress.note,
                metrics=metrics,
                check_signals=signals.check,
                request_stop=self._request_stop,
            )

        progress.header(header)
        if step == 0:
            self._actions.call_at_start(context())
        else:
            # First what a kill has left undone: its metrics belong to this step.
            self._actions.call_missing(context(), is_last=step >= self._options.train_steps)
            self._actions.call_on_resume(context())
            reason = self._agreed_reason_to_stop()
            if reason is not None:
                progress.note(f"already ended at step {step}: {reason}")
                return TrainResult(step, {}, None)
        if step >= self._options.train_steps:
            return TrainResult(step, self._values, signals.agree())
        while step < self._options.train_steps and signals.agree() is None:
            count = processes.agree(self._steps_of_visit(step), "steps of the visit")
            start, waited = self._clock(), self._infeed.wait_secs
            signals.finishing = f"step {step + count:,}"
            try:
                first = contextlib.nullcontext() if self._visits else signals.abandoning()
                with self._profiled(), first:
                    history = self._visit(step, count)
            except Stopped:  # by the first visit, which compiles
                return TrainResult(step, {}, signals.agree(), is_saved=step > 0)
            secs, waited = self._clock() - start, self._infeed.wait_secs - waited
            skipped = self._guard.check_steps(step, history, count, self._features)
            if skipped is not None:
                progress.note(skipped)
            units = float(history[OBJECTIVE].weight[:count].sum())
            self._pace.add(count, units, secs, waited, self._device_secs)
            self._laggards.add(count, self._device_secs)
            before, step = step, step + count
            points = list(self._curves.add(before, history, count))
            start = self._clock()
            self._write_points(points, step, progress, summaries)
            progress.advance(count)
            for line in self._laggards.find() if points else ():
                progress.note(warning(line))
            summaries.flush()
            self._saving.poll()
            self._pace.add_host_secs(self._clock() - start)
            self._actions.call(before, context())
            reason = self._agreed_reason_to_stop()
            if reason is not None:
                progress.note(f"ending at step {step}: {reason}")
                break
        self._actions.call_at_end(context())
        self._saving.finish()
        return TrainResult(step, self._values, signals.agree())

    def is_any_missing(self, step: int) -> bool:
        """Returns whether an action that was due at `step`, the last one, has to be made up for."""
        return bool(self._actions.missing(step, is_last=True))

    def close(self) -> None:
        """Waits for what an error has left in progress."""
        self._saving.close()

    def _request_stop(self, reason: str) -> None:
        self._stop_reason = self._stop_reason or reason

    def _consider_best(self, step: int, values: Mapping[str, float]) -> None:
        """Keeps the checkpoint of this step if it is the best."""
        self._actions.check_metric_exists(values.keys())
        self._saving.consider_best(step, values)

    def _agreed_reason_to_stop(self) -> str | None:
        """Returns why an action, in any process, has asked to stop."""
        reasons = processes.gather(self._stop_reason, "reason to stop")
        return next((reason for reason in reasons if reason is not None), None)

    def _write_points(
        self,
        points: Sequence[tuple[int, Mapping[str, float]]],
        visited: int,
        progress: Progress,
        summaries: Summaries,
    ) -> None:
        """Writes the points that a visit has completed, with the speed since the point before.

        `visited` is the step at the end of the visit.
        """
        for step, point in points:
            seen = examples_seen(self._infeed.examples_seen(visited - step))
            rates = self._pace.rates()
            rates |= {**self._machine.speed(rates[STEPS_PER_SEC]), **self._machine.memory()}
            self._values = {**point, **rates, **seen}
            skipped = self._guard.skipped_until(step)
            if skipped is not None:
                self._values[SKIPPED] = float(skipped)
            write_metrics(summaries, self._values, step)
            progress.line(step, self._values)
        if points:
            self._pace.start_window()

    def _steps_of_visit(self, step: int) -> int:
        """Returns the number of steps to the next event that is due at an exact step."""
        iterations = self._options.iterations_per_loop
        stops = [
            self._options.train_steps,
            # At the multiples, so that visits end where points of the curves do.
            (step // iterations + 1) * iterations,
            self._actions.next_step(step),
        ]
        return self._pace.steps(min(stop for stop in stops if stop is not None) - step)

    def _visit(self, step: int, count: int) -> History:
        """Trains for `count` steps after `step` and returns their history as numpy arrays."""
        self._features = {}  # frees their memory before the next ones are made
        features = self._infeed.next(count, capacity=self._options.iterations_per_loop)
        if features is None:
            raise InputError(
                "the training data has come to an end: Data.train must return endless batches"
            )
        self._features, self._last_index = features, count - 1
        num_steps = mtf.constant(self._state.mesh, count, dtype=tf.int32)
        is_first = not self._visits
        self._visits += 1
        compiling = waiting("compiling the training step", "compiled the training step")
        with compiling if is_first else contextlib.nullcontext():
            start = self._clock()
            with mtf.collect_reports() as reports:
                history: History = mtf.to_numpy(self._steps_function(features, num_steps))
            self._device_secs = self._clock() - start
        history = {**with_norms(history, self._norms), **padding_history(self._padding())}
        capacity = next(iter(features.values())).shape[0].size
        mtf.print_reports(reports, capacity, lambda i: f"step {step + i + 1}: ", note)
        return {**history, **summaries_history(mtf.curves_of(reports, capacity), history)}

    def _last_batch(self) -> Features:
        index = mtf.constant(self._state.mesh, self._last_index, dtype=tf.int32)
        batch: Features = self._batch_at(self._features, index)
        return batch

    def _padding(self) -> list[Padding]:
        """Returns the padding of the last batches, over the rows of all processes."""
        of_processes = processes.gather([list(x) for x in self._infeed.padding], "padding")
        return [
            Padding(*map(sum, zip(*of_batch, strict=True)))
            for of_batch in zip(*of_processes, strict=True)
        ]

    def _check_variables(self, step: int) -> None:
        self._guard.check_variables(step, self._features, self._last_index)

    def _profiled(self) -> AbstractContextManager[None]:
        """Records a profile of the third visit if `TrainOptions.profile` is set."""
        is_third = self._visits == 2
        if not (self._options.profile and is_third):
            return contextlib.nullcontext()
        return profiled(self._run.path, self._visits)
