"""Evaluation of an experiment: the model's own metrics, and further measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mtfrun import evaluation
from mtfrun.data import DataError
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.measurement import Evaluated, Measurement
from mtfrun.rundir import Summaries, write_metrics


class Evaluation:
    """Evaluates the model of an experiment on a split of its data.

    Args:
      experiment: has the model and the data.
      batch_size: rows of a batch.
      split: of the data.
      max_batches: number of batches to evaluate, from the first on; None for all.
      measurements: measurements besides the model's own metrics, in order: classes, each called
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
        """Reads the first batch of the split.

        Raises:
          DataError: there is none, or it cannot be read.
        """
        batches = self._experiment.data.evaluation(self._batch_size, split=self._split)
        if next(batches, None) is None:
            raise DataError(f"split {self._split!r} has no batch to evaluate: choose another")

    def __call__(
        self,
        step: int,
        summaries: Summaries | None = None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Returns the metrics for the model's present weights.

        Measurements that use the model are skipped if its own metrics are not finite.

        Args:
          step: of the weights, under which metrics, texts and images are written.
          summaries: where they are written; None writes nothing.
          before_batch: called before every batch; may raise to stop.
        """
        infeed = self._experiment.evaluation_infeed(
            self._batch_size, self._split, self._max_batches
        )
        own = self._evaluator.measure(infeed, before_batch)
        is_finite = all(map(math.isfinite, own.values.values()))
        evaluated = Evaluated(
            own.values, own.tables, summaries is not None, progress=lambda _: before_batch()
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
