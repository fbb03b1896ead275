"""Further results of layers: losses, metrics, updates, and values for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError


class Metric(NamedTuple):
    """The mean total / weight (a scalar), float32; parts of batches and hosts add up exactly."""

    total: mtf.Tensor
    weight: mtf.Tensor


class Collected(NamedTuple):
    """The contents of a `Collector`, a nested structure of tensors.

    `losses`: scalars by the path of their layer, added to the mean loss of a batch; `metrics`: by
    "path/name", without gradients; `updates`: the next values of variables by path, such as moving
    averages, assigned after the optimizer's step, since a step must not read assigned variables.
    """

    losses: dict[str, mtf.Tensor]
    metrics: dict[str, Metric]
    updates: dict[str, mtf.Tensor]


class Collector:
    """Takes the losses, metrics and updates of layers during one call of a model."""

    def __init__(self) -> None:
        self.contents = Collected({}, {}, {})

    def add_loss(self, layer: mtf.Module, loss: mtf.Tensor) -> None:
        """Adds a scalar to the loss; the losses of a layer that is called twice add up."""
        self.add_all(Collected({layer.path: loss}, {}, {}))

    def add_metrics(self, layer: mtf.Module, metrics: Mapping[str, Metric]) -> None:
        """Adds the metrics of a layer by name; two calls add up."""
        by_path = {f"{layer.path}/{name}": metric for name, metric in metrics.items()}
        self.add_all(Collected({}, by_path, {}))

    def add_update(self, variable: mtf.Variable, value: mtf.Tensor) -> None:
        """Sets the value that a variable takes after the step; an InputError for a second call."""
        self.add_all(Collected({}, {}, {variable.path: value}))

    def add_all(self, collected: Collected) -> None:
        """Adds the contents of another collector."""
        losses, metrics, updates = self.contents
        for path, loss in collected.losses.items():
            losses[path] = losses[path] + loss if path in losses else loss
        for name, (total, weight) in collected.metrics.items():
            if name in metrics:
                total, weight = metrics[name].total + total, metrics[name].weight + weight
            metrics[name] = Metric(total, weight)
        for path, value in collected.updates.items():
            if path in updates:
                raise InputError(f"{path} has two updates in one step: call its layer once")
            updates[path] = value

    def total_loss(self) -> mtf.Tensor | None:
        """Returns the sum of all losses, or None."""
        losses = list(self.contents.losses.values())
        return mtf.add_n(losses) if losses else None


class Recorded(NamedTuple):
    """The contents of a `Recorder`, a nested structure of tensors by the path of their layer.

    Attention weights {batch..., heads..., length, memory_length} of vectors to their sequence, and
    to another; by level the first expert to which every token is dispatched, int32 {...} in batch
    order, or -1.
    """

    self_attention: dict[str, mtf.Tensor]
    memory_attention: dict[str, mtf.Tensor]
    experts: dict[str, dict[str, mtf.Tensor]]


class Recorder:
    """Takes layers' inner values, outside of training; attention in blocks does not give any."""

    def __init__(self) -> None:
        self.contents = Recorded({}, {}, {})

    def add_attention(self, layer: mtf.Module, weights: mtf.Tensor, *, to_itself: bool) -> None:
        """Adds the weights of an attention."""
        recorded = self.contents
        part = recorded.self_attention if to_itself else recorded.memory_attention
        part[layer.path] = weights

    def add_experts(self, layer: mtf.Module, level: str, experts: mtf.Tensor) -> None:
        """Adds the experts of tokens."""
        self.contents.experts.setdefault(layer.path, {})[level] = experts
