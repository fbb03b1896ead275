"""Batch normalisation, synchronised over the mesh; Ioffe and Szegedy 2015, arXiv:1502.03167.

A step that uses it updates more variables than the optimizer does: the moving averages. They are
returned, not assigned, because a variable must not be read after it was assigned in the same step:

    y, updates = norm(x, training=True)       # {variable path: new value}
    ...                                       # the loss, gradients, the optimizer
    for path, value in updates.items():       # last
        mtf.assign(variables[path], value)

New values are linear in the statistics of the batch: over microbatches their mean is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from mtfrun import mtf

# The values that variables take after the step, by path.
Updates: TypeAlias = dict[str, mtf.Tensor]


class BatchNorm(mtf.Module):
    """`mtf.batch_normalize` with a trained scale and bias, and moving averages for evaluation."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        features: Iterable[mtf.Dimension],
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        init_zero: bool = False,
    ) -> None:
        """Makes the specs of scale, bias, moving_mean and moving_variance {*features}.

        Args:
          mesh: the mesh.
          features: the dimensions that have their own statistics, such as the channels; these are
            taken over all others, blocks and batch included.
          dtypes: of the variables; x keeps its type.
          momentum: the share of the moving averages that stays in a step.
          epsilon: added to the variance.
          init_zero: the first scale is 0, not 1: a residual block begins as the identity
            (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        """
        super().__init__()
        shape = mtf.Shape(features)
        self._momentum = momentum
        self._epsilon = epsilon
        one = mtf.initializers.Ones()
        first = mtf.initializers.Zeros() if init_zero else one
        self.scale = mtf.Variable(mesh, shape, first, dtypes.master)
        self.bias = mtf.Variable(mesh, shape, dtype=dtypes.master)
        self.moving_mean = mtf.Variable(mesh, shape, dtype=dtypes.master, trainable=False)
        self.moving_variance = mtf.Variable(mesh, shape, one, dtypes.master, trainable=False)

    def __call__(self, x: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns x normalised, and in training the next moving averages by variable path.

        Args:
          x: {..., *features}.
          training: normalise by the statistics of this batch, otherwise by the moving averages.
        """
        scale, bias = mtf.to_float(self.scale), mtf.to_float(self.bias)
        if not training:
            mean, variance = mtf.to_float(self.moving_mean), mtf.to_float(self.moving_variance)
            # Two operations over x, the others over the features.
            factor = mtf.rsqrt(variance + self._epsilon) * scale
            y = mtf.to_float(x) * factor + (bias - mean * factor)
            return mtf.cast(y, x.dtype), {}
        y, mean, variance = mtf.batch_normalize(x, scale, bias, self._epsilon)
        averages = ((self.moving_mean, mean), (self.moving_variance, variance))
        return y, {v.path: self._next(v, statistic) for v, statistic in averages}

    def _next(self, average: mtf.Variable, statistic: mtf.Tensor) -> mtf.Tensor:
        """Returns the moving average after this step."""
        before = mtf.to_float(average)
        return before * self._momentum + statistic * (1.0 - self._momentum)
