"""Evaluating an experiment: the model's own metrics, and what else is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtfrun import evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.measurement import Evaluated, Measurement
from mtfrun.rundir import Summaries, write_metrics


class Evaluation:
    """What is measured, on which split.

    Args:
      experiment: what is evaluated.
      batch_size: rows of a batch.
      split: the split of the data.
      max_batches: evaluate the first batches only; None takes all.
      measurements: what is measured besides the model's own metrics, in order: classes, each called
        with the experiment and the split.
    """

    def __init__(
        self,
        experiment: Experiment,
        batch_size: int,
        split: str = "validation",
        max_batches: int | None = None,
        measurements: Sequence[Callable[[Experiment, str], Measurement]] = (),
    ):
        experiment.check_batch(batch_size)
        self._experiment = experiment
        self._batch_size = batch_size
        self._split = split
        self._max_batches = max_batches
        self._measurements = [measurement(experiment, split) for measurement in measurements]
        self._evaluator = evaluation.Evaluator(
            experiment.model, experiment.mesh, bytes_per_id=experiment.data.bytes_per_id
        )

    def check_split(self) -> None:
        """Raises DataError unless the split has a first batch, which is read."""
        self._experiment.check_split(self._batch_size, self._split)

    def __call__(
        self,
        step: int,
        summaries: Summaries | None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Returns the metrics of the model as it is.

        Writes them, texts and images as of `step`, unless there is nowhere to write them. Of a
        model whose own metrics are not finite nothing is decoded. `before_batch` may raise to stop.
        """
        infeed = self._experiment.evaluation_infeed(
            self._batch_size, self._split, self._max_batches
        )
        own = self._evaluator.measure(infeed, before_batch)
        is_finite = all(map(math.isfinite, own.values.values()))
        evaluated = Evaluated(
            own.values, own.tables, summaries is not None, progress=lambda done: before_batch()
        )
        metrics = dict(own.values)
        texts: dict[str, str] = {}
        images: dict[str, np.ndarray] = {}
        for measurement in self._measurements:
            if is_finite or not measurement.uses_model:
                measured = measurement(evaluated)
                metrics |= measured.metrics
                texts |= measured.texts
                images |= measured.images
        if summaries is not None:
            write_metrics(summaries, metrics, step)
            for tag, text in texts.items():
                summaries.text(tag, text, step)
            for tag, image in images.items():
                summaries.image(tag, image, step)
            summaries.flush()
        return metrics

    def during_training(
        self,
        step: int,
        summaries: Summaries,
        note: Callable[[str], None],
        before_batch: Callable[[], None],
    ) -> None:
        """Evaluates and gives `note` a line. `before_batch` may raise to stop."""
        note(f"eval {_line(step, self(step, summaries, before_batch))}")


def _line(step: int, metrics: Mapping[str, float]) -> str:
    # Those of single layers have paths: TensorBoard shows them.
    own = (f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
    return "  ".join([f"step {step}", *own])
