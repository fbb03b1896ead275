"""What a layer gives a model besides its output: losses of its own and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf


class Metric(NamedTuple):
    """A mean as its two parts, float32; value = total / weight.

    The weight is a scalar, the total may have dimensions. Parts of batches, microbatches and hosts
    add up to the exact mean of all.
    """

    total: mtf.Tensor
    weight: mtf.Tensor


class Auxiliary(NamedTuple):
    """One layer's losses and measurements.

    loss: a scalar, added to the mean loss of a batch.
    metrics: by name, without gradients.
    """

    loss: mtf.Tensor
    metrics: dict[str, Metric]


class Collector:
    """Takes what layers give during one call of a model.

    Whoever computes layers inside of something that has results of its own, such as
    `mtf.recompute_grad`, makes a collector there and hands on `found` as one of the results.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self.found: dict[str, Auxiliary] = {}

    def add(self, path: str, auxiliary: Auxiliary) -> None:
        """Takes what the layer at `path` gives; a layer that is called twice gives sums."""
        before = self.found.get(path)
        if before is not None:
            auxiliary = tf.nest.map_structure(mtf.add, before, auxiliary)
        self.found[path] = auxiliary

    def add_all(self, found: Mapping[str, Auxiliary]) -> None:
        """Takes everything that another collector found."""
        for path, auxiliary in found.items():
            self.add(path, auxiliary)

    def loss(self) -> mtf.Tensor | None:
        """Returns the sum of all losses; None where no layer has one."""
        losses = [auxiliary.loss for auxiliary in self.found.values()]
        return mtf.add_n(losses) if losses else None

    def metrics(self) -> dict[str, Metric]:
        """Returns all measurements as "path/name"."""
        return {
            f"{path}/{name}": mean
            for path, auxiliary in self.found.items()
            for name, mean in auxiliary.metrics.items()
        }
