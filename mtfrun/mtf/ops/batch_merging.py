"""Leading dimensions as the one batch dimension that TensorFlow's fused kernels want."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf.tensor import Tensor


def split_leading_axes(x: Tensor, num_leading: int) -> list[int]:
    """Returns which of x's first dimensions are split over devices."""
    return [i for i in range(num_leading) if x.mesh.num_splits(x.shape[i]) > 1]


def over_merged_batch(
    fn: Callable[[tf.Tensor], tf.Tensor], x: Tensor, value: tf.Tensor, num_leading: int
) -> tf.Tensor:
    """Returns fn(value), for whose time the leading dimensions are merged into one.

    Args:
      fn: from {batch, ...} to {batch, ...}.
      x: its shape says which leading dimension is split: at most one, because a dimension cannot be
        split over two mesh axes.
      value: x's, or one with the same leading dimensions.
      num_leading: how many dimensions are merged.
    """
    split = split_leading_axes(x, num_leading)
    # DTensor can merge a split dimension only where it leads.
    order = split + [i for i in range(num_leading) if i not in split]
    in_order = order == list(range(num_leading))
    if not in_order:
        value = tf.transpose(value, [*order, *range(num_leading, value.shape.rank)])
    if num_leading != 1:
        sizes = [x.shape[i].size for i in order]
        value = tf.reshape(value, [math.prod(sizes), *value.shape[num_leading:]])
    result = fn(value)
    if num_leading != 1:
        result = tf.reshape(result, [*sizes, *result.shape[1:]])
    if not in_order:
        back = [order.index(i) for i in range(num_leading)]
        result = tf.transpose(result, [*back, *range(num_leading, result.shape.rank)])
    return result
