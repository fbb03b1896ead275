from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.metrics.tags import layer_name
from mtfrun.training.hooks.actions import Action, ActionContext
from mtfrun.training.microbatches import Features, loss_and_gradients
from mtfrun.training.state import TrainState

_BUCKETS = 30


class Distribution(NamedTuple):
    """A histogram from `low` to `high` on a device or the host; `below` {buckets} is cumulative."""

    low: Any
    high: Any
    below: Any

    def buckets(self) -> np.ndarray:
        """Returns float64 [buckets, 3]: from, to, and the number of entries in between."""
        low, high = float(self.low), float(self.high)
        if low == high:
            return np.array([[low - 0.5, high + 0.5, self.below[-1]]], np.float64)
        edges = np.linspace(low, high, len(self.below) + 1)
        return np.stack([edges[:-1], edges[1:], np.diff(self.below, prepend=0.0)], axis=1)


@dataclasses.dataclass
class Histograms(Action):
    """Writes histograms of all trained variables and of their gradients.

    Gradients are computed for the last batch at the weights after the step, before clipping:
    another forward and backward pass, in a program that is compiled the first time. Training is not
    affected.

        experiment.Training.actions = [@histograms.Histograms()]
        histograms.Histograms.every_steps = 500

    Attributes:
      every_steps: steps between two of them.
      gradients: whether there are histograms of gradients.
      microbatches: parts of the batch that are computed one after the other, to save memory.
    """

    every_steps: int | None = 1000
    gradients: bool = True
    microbatches: int = 1

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "microbatches")
        self._program: Callable[[Features], Mapping[str, Distribution]] | None = None

    def __call__(self, context: ActionContext) -> None:
        if self._program is None:
            self._program = self._program_of(context.state)
        batch = context.batch() if self.gradients else {}
        for tag, distribution in mtf.to_numpy(self._program(batch)).items():
            if np.isfinite([distribution.low, distribution.high]).all():
                context.summaries.buckets(tag, distribution.buckets(), context.step)

    def _program_of(self, state: TrainState) -> Callable[[Features], Mapping[str, Distribution]]:
        def compute(batch: Features) -> dict[str, Distribution]:
            tensors = {
                f"weights/{layer_name(path)}": v.read() for path, v in state.trainable.items()
            }
            if self.gradients:
                step = mtf.read_variable(state.step)
                _, gradients = loss_and_gradients(state, batch, step, self.microbatches)
                tensors |= {f"gradients/{layer_name(path)}": g for path, g in gradients.items()}
            return dict(zip(tensors, distributions(list(tensors.values())), strict=True))

        return mtf.function(compute)


def distributions(tensors: Sequence[mtf.Tensor]) -> list[Distribution]:
    mesh = tensors[0].mesh
    dim = mtf.Dimension("buckets", _BUCKETS)
    positions = mtf.range(mesh, dim, tf.int32)
    tensors = [mtf.cast(x, tf.float32) for x in tensors]
    lows = [mtf.reduce_min(x) for x in tensors]
    highs = [mtf.reduce_max(x) for x in tensors]
    widths = [(high - low) * (1.0 / _BUCKETS) for low, high in zip(lows, highs, strict=True)]

    def body(i: mtf.Tensor, counts: list[mtf.Tensor]) -> list[Any]:
        ends = mtf.cast(i + 1, tf.float32)
        is_bucket = mtf.equal(positions, i)
        return [
            i + 1,
            [
                mtf.where(is_bucket, mtf.reduce_sum(mtf.to_float(x < low + width * ends)), count)
                for x, low, width, count in zip(tensors, lows, widths, counts, strict=True)
            ],
        ]

    # In the last bucket is the greatest entry too, so that it is not compared.
    counts = [mtf.zeros(mesh, [dim]) + float(x.shape.size) for x in tensors]
    first = mtf.constant(mesh, 0, dtype=tf.int32)
    _, counts = mtf.while_loop(
        lambda i, _: mtf.less(i, _BUCKETS - 1), body, [first, counts], parallel_iterations=1
    )
    return list(map(Distribution, lows, highs, counts))
