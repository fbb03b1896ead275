"""Evaluating a model over a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.evaluation.bits_per_byte import bits_per_byte
from mtfrun.models.means import means
from mtfrun.models.model import Metric, Model

# Name of the metric for the bytes of text that the targets with a loss stand for.
_BYTES = "bytes"


class Measured(NamedTuple):
    """What an evaluation found.

    Attributes:
      values: means, by metric.
      tables: sums over all examples of what has two dimensions, such as a confusion matrix.
    """

    values: dict[str, float]
    tables: dict[str, np.ndarray]


class Evaluator:
    """Computes a model's metrics over all batches of an infeed; compiled once, used at every step.

    Args:
      model: with initialised variables, read anew at every call.
      mesh: the model's mesh.
      bytes_per_id: [vocabulary] bytes of text that each target id stands for; with it
        "bits_per_byte" is among the metrics.
      batches_per_visit: batches that run on the devices between two visits of the host.
    """

    def __init__(
        self,
        model: Model,
        mesh: mtf.Mesh,
        *,
        bytes_per_id: np.ndarray | None = None,
        batches_per_visit: int = 16,
    ):
        self._model = model
        self._mesh = mesh
        self._bytes_per_id = bytes_per_id
        self._batches_per_visit = batches_per_visit
        self._sums = mtf.function(self._sums_of_visit)

    def __call__(self, infeed: Infeed) -> dict[str, float]:
        """Returns the values of `measure`."""
        return self.measure(infeed).values

    def measure(self, infeed: Infeed) -> Measured:
        """Returns the means over all batches, exact over padding, batches and devices.

        A metric with a dimension has a value for every entry, see `metric_tags.entries`; what has
        more dimensions is a table.

        Raises:
          ValueError: there is no batch.
        """
        totals: dict[str, np.ndarray] = {}
        weights: dict[str, float] = {}
        while (features := infeed.next(self._batches_per_visit)) is not None:
            for name, metric in mtf.to_numpy(self._sums(features)).items():
                totals[name] = totals.get(name, np.float64(0.0)) + metric.total.astype(np.float64)
                weights[name] = weights.get(name, 0.0) + float(metric.weight)
        if not totals:
            raise ValueError("there is nothing to evaluate: the split has no batch")
        num_bytes = float(totals.pop(_BYTES))
        tables = {name: totals.pop(name) for name, x in list(totals.items()) if x.ndim > 1}
        told = self._model.reporting
        values = means(totals, weights, with_perplexity=told.with_perplexity)
        if "loss" in values and num_bytes:
            values["bits_per_byte"] = bits_per_byte(float(totals["loss"]), num_bytes)
        return Measured(values, tables)

    def _sums_of_visit(self, features: Mapping[str, mtf.Tensor]) -> dict[str, Metric]:
        """Returns the sums of totals and weights over the steps of features {steps, batch, ...}."""
        steps_dim = next(iter(features.values())).shape[0]
        zero = mtf.zeros(self._mesh, [])
        first = {**self._model.no_evaluation_metrics(self._mesh), _BYTES: Metric(zero, zero)}

        def body(i: mtf.Tensor, sums: dict[str, Metric]) -> tuple:
            batch = {name: mtf.gather(x, i, steps_dim) for name, x in features.items()}
            metrics = dict(self._model.loss(batch, training=False, key=None).metrics)
            metrics[_BYTES] = self._bytes(batch)
            return i + 1, tf.nest.map_structure(mtf.add, sums, metrics)

        start = mtf.constant(self._mesh, 0, dtype=tf.int32)
        _, sums = mtf.while_loop(
            lambda i, sums: i < steps_dim.size, body, (start, first), parallel_iterations=1
        )
        return sums

    def _bytes(self, batch: Mapping[str, mtf.Tensor]) -> Metric:
        zero = mtf.zeros(self._mesh, [])
        if self._bytes_per_id is None or "targets" not in batch:
            return Metric(zero, zero)
        # A dimension name of its own: the table is small and stays whole on every device.
        ids = mtf.Dimension("vocabulary_ids", len(self._bytes_per_id))
        table = mtf.constant(self._mesh, self._bytes_per_id, [ids])
        sizes = mtf.gather(table, mtf.maximum(batch["targets"], 0), ids)
        return Metric(mtf.reduce_sum(sizes * self._model.target_weights(batch)), zero)
