"""Replacement of one entry along a dimension."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.ops.binary import equal, logical_and, where
from mtfrun.mtf.ops.constants import range
from mtfrun.mtf.ops.wrappers import lay_out, reorder
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def write_position(
    x: TensorLike,
    entry: TensorLike,
    dim: DimensionLike,
    position: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """Returns x with `entry` at one index along a dimension, as a cache is after a decoding step.

    x: {..., dim, ...}; entry: the same without `dim`; position: an int32 scalar; condition: bool,
    with dimensions of the entry: where it is false, x is not changed. XLA on one device writes in
    place where x is not used again; elsewhere it is a selection: DTensor would replicate a scatter.
    """
    x, entry = as_tensor(x), as_tensor(entry)
    dim = convert_to_dimension(dim)
    form = _write_for_xla if is_traced_for_xla(x.mesh) else _composed_write
    return form(x, entry, dim, position, condition)


def _composed_write(
    x: Tensor, entry: Tensor, dim: Dimension, position: Tensor, condition: Tensor | None
) -> Tensor:
    is_written = equal(range(x.mesh, dim), position)
    if condition is not None:
        is_written = logical_and(condition, is_written, output_shape=[*condition.shape, dim])
    return where(is_written, entry, x, output_shape=x.shape)


def _write_for_xla(
    x: Tensor, entry: Tensor, dim: Dimension, position: Tensor, condition: Tensor | None
) -> Tensor:
    axis = x.shape.index(dim)
    starts = tf.stack([position.value if i == axis else 0 for i, _ in enumerate(x.shape)])
    if condition is not None:
        sizes = [1 if i == axis else d.size for i, d in enumerate(x.shape)]
        old = tf.squeeze(tf.slice(x.value, starts, sizes), [axis])
        entry = where(condition, entry, lay_out(x, old, x.shape - dim))
    update = tf.expand_dims(reorder(entry, x.shape - dim).value, axis)
    value = xla.dynamic_update_slice(x.value, update, starts)
    return lay_out(x, value, x.shape)
