"""The training loop: steps on the devices, everything else between them on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.rundir import RunDirectory, Summaries, write_metrics
from mtfrun.training.curves import Curves, History, first_non_finite
from mtfrun.training.options import TrainOptions
from mtfrun.training.progress import Progress
from mtfrun.training.signals import StopSignals
from mtfrun.training.state import TrainState
from mtfrun.training.step import OBJECTIVE, train_steps_function
from mtfrun.training.triggers import Every

# Called with a model's variables by path, and how many ids are in use in those that have them.
WarmStarting = Callable[[Mapping[str, mtf.Variable], Mapping[str, int]], object]


class NonFiniteLossError(ValueError):
    """The loss became infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    step: finished steps.
    values: the last point of the curves, by tag; empty where none was reached.
    signal: the number of the signal that stopped it, or None.
    """

    step: int
    values: Mapping[str, float]
    signal: int | None


def train(
    state: TrainState,
    infeed: Infeed,
    run: RunDirectory,
    options: TrainOptions,
    *,
    evaluate: Callable[[int], object] | None = None,
    warm_start: WarmStarting | None = None,
    texts: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainResult:
    """Trains to `options.train_steps`, from the newest good checkpoint of the run if there is one.

    The caller holds the run's lock. SIGTERM and SIGINT finish the steps under way and save.

    Args:
      state: initialised here.
      infeed: endless batches; its iterator is saved and restored with every checkpoint.
      run: where checkpoints and summaries go.
      options: when to do what.
      evaluate: called with the step, when evaluation is due and at the end.
      warm_start: called when the run has no checkpoint yet; it may set the variables, and returns
        what to say about that, or None.
      texts: Markdown texts by tag, for TensorBoard: the configuration, the command.
      metadata: JSON values for the checkpoints' manifests, besides mesh, layout and seed.
      clock: gives the time in seconds.

    Raises:
      NonFiniteLossError: naming the step and the checkpoint to go back to.
      RunDirError: a checkpoint does not fit the model, or cannot be written.
    """
    loop = _Loop(state, infeed, run, options, evaluate, metadata or {}, clock)
    first_step = loop.restore(warm_start)
    progress = Progress(first_step, options.train_steps, reporting=state.model.reporting)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        summaries = stack.enter_context(run.summaries("train", resumed_step=first_step))
        signals = stack.enter_context(StopSignals())
        for tag, text in (texts or {}).items():
            summaries.text(tag, text, first_step)
        if first_step:
            progress.note(f"going on from step {first_step} of {run.path}")
        elif loop.warm_start is not None:
            progress.note(f"warm start: {loop.warm_start}")
        return loop.run(progress, summaries, signals)


class _Loop:
    """The parts of one call of `train`."""

    def __init__(
        self,
        state: TrainState,
        infeed: Infeed,
        run: RunDirectory,
        options: TrainOptions,
        evaluate: Callable[[int], object] | None,
        metadata: Mapping[str, object],
        clock: Callable[[], float],
    ):
        self._state = state
        self._infeed = infeed
        self._run = run
        self._options = options
        self._evaluate = evaluate
        self._metadata = dict(metadata)
        self._clock = clock
        self._checkpoints = run.checkpoints(max_to_keep=options.max_to_keep)
        self._reporting = state.model.reporting
        self._curves = Curves(
            options.log_every_steps,
            options.train_steps,
            with_perplexity=self._reporting.with_perplexity,
        )
        self._saving = Every(
            steps=options.checkpoint_every_steps, secs=options.checkpoint_every_secs, clock=clock
        )
        self._evaluating = Every(steps=options.evaluate_every_steps, clock=clock)
        self._steps_function = train_steps_function(
            state, microbatches=options.microbatches, clip_norm=options.clip_norm
        )
        self._saved_step: int | None = None
        self._visits = 0
        self.warm_start: object = None

    def restore(self, warm_start: WarmStarting | None) -> int:
        """Initialises the state, from the newest good checkpoint where there is one."""
        self._state.initialize()
        self._checkpoints.clean()
        if self._checkpoints.latest() is None:
            if warm_start is not None:
                model = self._state.model
                self.warm_start = warm_start(model.named_variables(), model.vocabulary_sizes)
            return 0
        found = self._checkpoints.restore(None, self._state.storage(), self._infeed.iterator)
        # Random numbers must go on as they were, whatever the configuration says by now.
        self._state.seed = int(found.metadata.get("seed", self._state.seed))
        self._saved_step = found.step
        return found.step

    def run(self, progress: Progress, summaries: Summaries, signals: StopSignals) -> TrainResult:
        """Visits the devices until the last step, or until a signal comes."""
        step = self._state.finished_steps
        values: dict[str, float] = {}
        evaluated_step: int | None = None
        while step < self._options.train_steps and signals.received is None:
            count = self._steps_of_visit(step)
            start = self._clock()
            with self._profiled():
                history = self._visit(count)
            secs = max(self._clock() - start, 1e-9)
            self._check_finite(step, count, history)
            rates = {
                "perf/steps_per_sec": count / secs,
                self._reporting.rate: float(history[OBJECTIVE].weight[:count].sum()) / secs,
            }
            for at, point in self._curves.add(step, history, count):
                values = {**point, **rates}
                write_metrics(summaries, values, at)
                progress.line(at, values)
            before, step = step, step + count
            progress.advance(count)
            summaries.flush()
            if self._saving.is_due(before, step):
                self._save(step)
            if self._evaluating.is_due(before, step) and signals.received is None:
                self._evaluate_at(step)
                evaluated_step = step
        self._save(step)
        if evaluated_step != step and signals.received is None:
            self._evaluate_at(step)
        return TrainResult(step, values, signals.received)

    def _steps_of_visit(self, step: int) -> int:
        """Returns the steps to the next event that is due at an exact step, or a full visit."""
        stops = [
            self._options.train_steps,
            step + self._options.iterations_per_loop,
            self._saving.next_step(step),
            self._evaluating.next_step(step),
        ]
        return min(stop for stop in stops if stop is not None) - step

    def _visit(self, count: int) -> History:
        """Takes `count` steps and returns their history as numpy arrays."""
        features = self._infeed.next(count, capacity=self._options.iterations_per_loop)
        if features is None:
            raise ValueError("the training data has come to an end: give the dataset a repeat")
        num_steps = mtf.constant(self._state.mesh, count, dtype=tf.int32)
        self._visits += 1
        return mtf.to_numpy(self._steps_function(features, num_steps))

    def _check_finite(self, step: int, count: int, history: History) -> None:
        bad = first_non_finite(history, count)
        if bad is None:
            return
        good = self._checkpoints.latest()
        remedy = (
            f"the last good checkpoint is step {good}"
            if good is not None
            else "there is no checkpoint yet"
        )
        raise NonFiniteLossError(
            f"the loss of step {step + bad + 1} is not finite; {remedy} in {self._run.path}: "
            "go on from it with a smaller learning rate, more warm-up or gradient clipping"
        )

    def _save(self, step: int) -> None:
        if self._saved_step == step:
            return
        mesh = self._state.mesh
        metadata = {
            **self._metadata,
            "mesh": mesh.shape.to_string,
            "layout": mesh.layout.to_string,
            "seed": self._state.seed,
        }
        self._checkpoints.save(
            step, self._state.storage(), self._infeed.iterator, metadata=metadata
        )
        self._saved_step = step

    def _evaluate_at(self, step: int) -> None:
        if self._evaluate is not None:
            self._evaluate(step)

    @contextlib.contextmanager
    def _profiled(self) -> Iterator[None]:
        """Records the second visit where asked to: the first one compiles."""
        if not self._options.profile or self._visits != 1:
            yield
            return
        tf.profiler.experimental.start(self._run.path + "/train")
        try:
            yield
        finally:
            tf.profiler.experimental.stop()
