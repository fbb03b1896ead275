"""Training an experiment in a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim, training
from mtfrun.experiment.evaluation import Evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.rundir import RunDirectory, Summaries, package_versions
from mtfrun.training.checks import check_count


class Training:
    """How an experiment is trained; it makes specifications only until it runs.

    Args:
      experiment: what is trained.
      evaluation: what is measured on the way.
      optimizer: the update rule.
      options: how long and how.
      batch_size: rows of a step, over all devices and microbatches.
      frozen: regular expressions of variable paths that are not trained.
      average_decay: of moving averages of the weights; None for none.
      evaluate_every_steps: steps between evaluations; None evaluates at the end only.
      actions: what else is done on the way, after an evaluation that is due at the same step.
    """

    def __init__(
        self,
        experiment: Experiment,
        evaluation: Evaluation,
        optimizer: optim.Optimizer,
        options: training.TrainOptions,
        batch_size: int,
        frozen: Sequence[str] = (),
        average_decay: float | None = None,
        evaluate_every_steps: int | None = 1000,
        actions: Sequence[training.Action] = (),
    ):
        experiment.check_batch(batch_size)
        if evaluate_every_steps is not None:
            check_count("evaluate_every_steps", evaluate_every_steps)
        training.check_actions(actions)
        self.experiment = experiment
        self.options = options
        self.batch_size = batch_size
        self._evaluation = evaluation
        self._evaluate_every_steps = evaluate_every_steps
        self._actions = actions
        self.state = training.TrainState(
            experiment.model,
            optimizer,
            experiment.mesh,
            seed=experiment.seed,
            frozen=frozen,
            average_decay=average_decay,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch, padding included."""
        return self.batch_size * self.experiment.data.tokens_per_row

    def check_evaluation_split(self) -> None:
        """Raises DataError unless there is something to evaluate on the way."""
        self._evaluation.check_split()

    def compile_step(self) -> None:
        """Makes the variables and compiles the program that trains, without taking a step."""
        state, options = self.state, self.options
        state.initialize()
        train_steps = training.train_steps_function(
            state, microbatches=options.microbatches, clip_norm=options.clip_norm
        )
        steps = mtf.Shape([mtf.Dimension("steps", 1)])
        shapes = self.experiment.feature_shapes(self.batch_size)
        features = {
            name: mtf.import_tf_tensor(
                state.mesh, np.zeros([1, *shape.to_integer_list], np.int32), steps + shape
            )
            for name, shape in shapes.items()
        }
        train_steps(features, mtf.constant(state.mesh, 0, dtype=tf.int32))

    def run(
        self, run: RunDirectory, *, texts: Mapping[str, str], profile: bool
    ) -> training.TrainResult:
        """Trains; the caller holds the run's lock. `texts` go to TensorBoard, by tag."""
        options = dataclasses.replace(self.options, profile=profile or self.options.profile)
        with run.summaries("eval", resumed_step=run.checkpoints().latest() or 0) as summaries:
            return training.train(
                self.state,
                self.experiment.train_infeed(self.batch_size),
                run,
                options,
                actions=[self._evaluating(summaries), *self._actions],
                warm_start=self.experiment.warm_start,
                texts=texts,
                metadata={"versions": package_versions()},
            )

    def _evaluating(self, summaries: Summaries) -> training.Action:
        averaged = self.state.averaged if self.experiment.use_averages else contextlib.nullcontext
        return _Evaluating(self._evaluation, summaries, averaged, self._evaluate_every_steps)


class _Evaluating(training.Action):
    """Evaluates on the way and at the end, with `averaged` entered; a signal ends it."""

    at_end = True

    def __init__(
        self,
        evaluation: Evaluation,
        summaries: Summaries,
        averaged: Callable[[], contextlib.AbstractContextManager[None]],
        every_steps: int | None,
    ):
        self.every_steps = every_steps
        self._evaluation = evaluation
        self._summaries = summaries
        self._averaged = averaged

    def __call__(self, context: training.ActionContext) -> None:
        context.check_signals()
        with self._averaged():
            self._evaluation.during_training(
                context.step, self._summaries, context.note, context.check_signals
            )
