"""Gradient clipping by global norm."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors.checks import POSITIVE, check_range
from mtfrun.optim.schedules import maximum


def half_squares(tensors: Mapping[str, mtf.Tensor]) -> dict[str, mtf.Tensor]:
    """Returns half of the sum of the squares of all entries of each tensor, in float32."""
    return {path: mtf.l2_loss(mtf.cast(x, tf.float32)) for path, x in tensors.items()}


def global_norm(tensors: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns the root of the sum of the squares of all entries of all tensors, in float32."""
    return norm_of(half_squares(tensors))


def norm_of(halves: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns the global norm of tensors from their `half_squares`."""
    return mtf.sqrt(2.0 * mtf.add_n(list(halves.values())))


def clip_by_global_norm(
    gradients: Mapping[str, mtf.Tensor], max_norm: float, norm: mtf.Tensor | None = None
) -> tuple[dict[str, mtf.Tensor], mtf.Tensor]:
    """Returns the gradients, scaled by one factor to a norm of at most `max_norm`, and the norm.

    The norm is before clipping, for summaries; not finite if an entry is not. `norm` is
    computed if None. Pascanu et al. 2013, algorithm 1, https://arxiv.org/abs/1211.5063.
    """
    check_range("max_norm", max_norm, POSITIVE)
    if norm is None:
        norm = global_norm(gradients)
    scale = mtf.divide(max_norm, maximum(norm, max_norm))
    clipped = {path: x * mtf.cast(scale, x.dtype) for path, x in gradients.items()}
    return clipped, norm
