"""Evaluation of a model over a split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.errors import InputError
from mtfrun.layers import Metric
from mtfrun.models import means
from mtfrun.models.model import Model, TextModel

# Name of the metric for the bytes of text that the targets with a loss represent.
_BYTES = "bytes"


class MetricMeans(NamedTuple):
    """Means by metric, and sums of metrics with two dimensions, such as a confusion matrix."""

    values: dict[str, float]
    tables: dict[str, np.ndarray]


class Sums(NamedTuple):
    """Float64 sums of metrics over examples, and the weights that divide them to means."""

    totals: dict[str, np.ndarray]
    weights: dict[str, float]

    @classmethod
    def over(cls, parts: Iterable[Sums]) -> Sums:
        totals: dict[str, np.ndarray] = {}
        weights: dict[str, float] = {}
        for part in parts:
            for name, total in part.totals.items():
                totals[name] = totals.get(name, np.float64(0.0)) + total
                weights[name] = weights.get(name, 0.0) + part.weights[name]
        return cls(totals, weights)


@dataclasses.dataclass(eq=False)
class ModelMetrics:
    """Computes a model's metrics over all batches of an infeed with a program compiled once.

    The values of the model's variables are read at every call. `bytes_per_id` [vocabulary] are the
    bytes of text that each target id represents, for the metric "bits_per_byte"; None omits it.
    """

    model: Model
    mesh: mtf.Mesh
    bytes_per_id: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._metrics = mtf.function(self._metrics_of_batch)

    def sums(self, infeed: Infeed, before_batch: Callable[[], None] = lambda: None) -> Sums:
        """Returns sums over all examples, independent of padding, batch size and devices.

        `before_batch` may raise to stop. Raises InputError if there is no batch.
        """
        # One batch per call: a signal waits for one only, and the sums do not depend on timing.
        batches = iter(lambda: infeed.next(1), None)
        sums = Sums.over(self.sums_of_batch(features, before_batch) for features in batches)
        if not sums.totals:
            raise InputError("there is nothing to evaluate: the split has no batch")
        return sums

    def means(self, sums: Sums) -> MetricMeans:
        """Divides sums by their weights.

        A metric with one dimension has a value for every entry, see `metric_tags.entries`; one with
        more is a table.
        """
        totals, weights = dict(sums.totals), sums.weights
        num_bytes = float(totals.pop(_BYTES))
        tables = {name: totals.pop(name) for name, x in list(totals.items()) if x.ndim > 1}
        values = means(totals, weights, with_perplexity=self.model.reporting.with_perplexity)
        if "loss" in values and num_bytes > 0:
            bits = float(totals["loss"]) / math.log(2.0)
            values["bits_per_byte"] = bits / max(num_bytes, 1.0)
        return MetricMeans(values, tables)

    def sums_of_batch(
        self, features: Mapping[str, mtf.Tensor], before_batch: Callable[[], None] = lambda: None
    ) -> Sums:
        """Returns the sums over the examples of features {steps: 1, batch, ...}; see `sums`."""
        before_batch()
        metrics = mtf.to_numpy(self._metrics(features))
        return Sums(
            {name: metric.total.astype(np.float64) for name, metric in metrics.items()},
            {name: float(metric.weight) for name, metric in metrics.items()},
        )

    def _metrics_of_batch(self, features: Mapping[str, mtf.Tensor]) -> dict[str, Metric]:
        """Returns totals and weights over features {steps:1, batch, ...}."""
        batch = {name: mtf.gather(x, 0, x.shape[0]) for name, x in features.items()}
        if self.mesh.batch_parts is None:
            return self._metrics_of(batch)
        metrics: dict[str, Metric] = mtf.sum_over_parts(lambda x, _: self._metrics_of(x), batch)
        return metrics

    def _metrics_of(self, batch: Mapping[str, mtf.Tensor]) -> dict[str, Metric]:
        metrics = dict(self.model.loss(batch, training=False, key=None).metrics)
        return {**metrics, _BYTES: self._bytes(batch)}

    def _bytes(self, batch: Mapping[str, mtf.Tensor]) -> Metric:
        zero = mtf.zeros(self.mesh, [])
        if self.bytes_per_id is None or "targets" not in batch:
            return Metric(zero, zero)
        # A dimension that no layout splits: the table is small and replicated on every device.
        ids = mtf.Dimension("vocabulary_ids", len(self.bytes_per_id))
        table = mtf.constant(self.mesh, self.bytes_per_id, [ids])
        sizes = mtf.gather(table, mtf.maximum(batch["targets"], 0), ids)
        return Metric(mtf.reduce_sum(sizes * self.model.target_weights(batch)), zero)


def target_log_probs(model: TextModel, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns log p(target | inputs, targets before it), {batch, length} float32; padding: 0."""
    targets = features["targets"]
    log_probs = mtf.negative(model.target_nats(features))
    return mtf.where(mtf.not_equal(targets, model.padding_id), log_probs, 0.0)
