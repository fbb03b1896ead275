"""Clipping of gradients by their common norm."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError


def global_norm(tensors: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns the root of the sum of the squares of all entries of all tensors; float32 scalar."""
    halves = [mtf.l2_loss(mtf.cast(x, tf.float32)) for x in tensors.values()]
    return mtf.sqrt(2.0 * mtf.add_n(halves))


def clip_by_global_norm(
    gradients: Mapping[str, mtf.Tensor], max_norm: float
) -> tuple[dict[str, mtf.Tensor], mtf.Tensor]:
    """Returns the gradients, scaled down together to a norm of at most `max_norm`; and their norm.

    The norm is the one before clipping, for summaries. Their direction stays the same (Pascanu et
    al. 2013, algorithm 1, https://arxiv.org/abs/1211.5063). Where any entry is not finite, neither
    is the norm.
    """
    if not max_norm > 0:
        raise InputError(f"max_norm is {max_norm}; it must be positive")
    norm = global_norm(gradients)
    scale = mtf.divide(max_norm, mtf.maximum(norm, max_norm))
    clipped = {path: x * mtf.cast(scale, x.dtype) for path, x in gradients.items()}
    return clipped, norm
