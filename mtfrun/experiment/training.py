"""Training an experiment in a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim, training
from mtfrun.experiment.evaluation import Evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.rundir import RunDirectory, Summaries, package_versions


class Training:
    """How an experiment is trained; it makes specifications only until it runs.

    Args:
      experiment: what is trained.
      evaluation: what is measured on the way.
      optimizer: the update rule.
      options: how long, and what happens when.
      batch_size: rows of a step, over all devices and microbatches.
      frozen: regular expressions of variable paths that are not trained.
      average_decay: of moving averages of the weights; None for none.
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
    ):
        experiment.check_batch(batch_size)
        self.experiment = experiment
        self.options = options
        self.batch_size = batch_size
        self._evaluation = evaluation
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
                evaluate=functools.partial(self._evaluate, summaries),
                warm_start=self.experiment.warm_start,
                texts=texts,
                metadata={"versions": package_versions()},
            )

    def _evaluate(
        self,
        summaries: Summaries,
        step: int,
        note: Callable[[str], None],
        before_batch: Callable[[], None],
    ) -> None:
        averaged = self.state.averaged if self.experiment.use_averages else contextlib.nullcontext
        with averaged():
            self._evaluation.during_training(step, summaries, note, before_batch)
