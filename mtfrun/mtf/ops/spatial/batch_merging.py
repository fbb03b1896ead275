"""Merging of leading dimensions: TensorFlow's fused kernels take one, einsum eight in all."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf.tensor import Tensor


def split_leading_axes(x: Tensor, num_leading: int) -> list[int]:
    """Returns which of x's first dimensions are split over devices."""
    return [i for i in range(num_leading) if x.mesh.num_splits(x.shape[i]) > 1]


def merged_names(x: Tensor, num_leading: int) -> list[str]:
    """Returns the names of the leading dimensions of the value that `over_merged_batch` merges."""
    split = [x.shape[i].name for i in split_leading_axes(x, num_leading)]
    return split if len(split) == 1 else [*split, "_merged"]


def over_merged_batch(
    fn: Callable[[tf.Tensor], tf.Tensor], x: Tensor, value: tf.Tensor, num_leading: int
) -> tf.Tensor:
    """Returns fn(value), computed with merged leading dimensions, which fn does not change.

    They are merged into one where at most one of them is split. Otherwise the split ones are not
    merged, because a dimension cannot be split over two mesh axes, and the others become one after
    them. x's shape says which leading dimensions of the value are split.
    """
    split = split_leading_axes(x, num_leading)
    # DTensor can merge a split dimension only where it is the first.
    order = split + [i for i in range(num_leading) if i not in split]
    in_order = order == list(range(num_leading))
    if not in_order:
        value = tf.transpose(value, [*order, *range(num_leading, value.shape.rank)])
    sizes = [x.shape[i].size for i in order]
    num_separate = len(split) if len(split) > 1 else 0
    merged = [*sizes[:num_separate], math.prod(sizes[num_separate:])]
    if merged != sizes:
        value = tf.reshape(value, [*merged, *value.shape[num_leading:]])
    result = fn(value)
    if merged != sizes:
        result = tf.reshape(result, [*sizes, *result.shape[len(merged) :]])
    if not in_order:
        back = [order.index(i) for i in range(num_leading)]
        result = tf.transpose(result, [*back, *range(num_leading, result.shape.rank)])
    return result
