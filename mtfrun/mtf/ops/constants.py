"""Constants, ranges and one-hot vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun.mtf.ops.structure import broadcast
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import DimensionLike, Shape, ShapeLike, convert_to_dimension, convert_to_shape
from mtfrun.mtf.tensor import Tensor, TensorLike, align, as_tensor, lay_out
from mtfrun.mtf.transfer import import_tf_tensor


def constant(
    mesh: Mesh, value: Any, shape: ShapeLike | None = None, dtype: tf.DType = tf.float32
) -> Tensor:
    """Returns a host value as a tensor; a scalar value fills `shape`."""
    shape = convert_to_shape(shape if shape is not None else ())
    array = np.asarray(value)
    if array.ndim == 0 and shape.ndims:
        array = np.full(shape.to_integer_list, value)
    return import_tf_tensor(mesh, array, shape, dtype=tf.as_dtype(dtype))


def zeros(mesh: Mesh, shape: ShapeLike, dtype: tf.DType = tf.float32) -> Tensor:
    """Returns zeros."""
    return _fill(mesh, 0, shape, dtype)


def ones(mesh: Mesh, shape: ShapeLike, dtype: tf.DType = tf.float32) -> Tensor:
    """Returns ones."""
    return _fill(mesh, 1, shape, dtype)


def _fill(mesh: Mesh, value: int, shape: ShapeLike, dtype: tf.DType) -> Tensor:
    shape = convert_to_shape(shape)
    if mesh.is_distributed and tf.executing_eagerly():
        return constant(mesh, value, shape, dtype)
    # Not a constant: a large one would be stored in the graph.
    filled = tf.fill(shape.to_integer_list, tf.cast(value, dtype))
    return Tensor(mesh, mesh.constrain(filled, shape), shape)


def zeros_like(t: TensorLike) -> Tensor:
    """Returns zeros with the shape and type of t."""
    return zeros(t.mesh, t.shape, t.dtype)


def run_time_zeros(x: Tensor, shape: ShapeLike, dtype: tf.DType = tf.float32) -> Tensor:
    """Returns zeros that a program allocates in each run, as initial values of sums.

    `zeros` are a constant, which TensorFlow keeps in memory as long as the program.

    x: int32, of any value but not constant, with no or some of the dimensions of `shape`.
    """
    never = tf.cast(tf.less(x.value, tf.int32.min), dtype)
    return broadcast(Tensor(x.mesh, never, x.shape), shape)


def ones_like(t: TensorLike) -> Tensor:
    """Returns ones with the shape and type of t."""
    return ones(t.mesh, t.shape, t.dtype)


@accept_name
def range(mesh: Mesh, dim: DimensionLike, dtype: tf.DType = tf.int32) -> Tensor:  # Mesh TF's name
    """Returns 0, 1, ... along one dimension."""
    dim = convert_to_dimension(dim)
    return import_tf_tensor(mesh, np.arange(dim.size), Shape([dim]), dtype=tf.as_dtype(dtype))


@accept_name
def one_hot(
    indices: TensorLike,
    output_dim: DimensionLike,
    on_value: float = 1.0,
    off_value: float = 0.0,
    dtype: tf.DType = tf.float32,
) -> Tensor:
    """Returns on_value where the index of `output_dim`, the last, equals `indices`, else off_value.

    An index outside of it gives off_value everywhere. Every device computes its part only.
    """
    indices = as_tensor(indices)
    dim = convert_to_dimension(output_dim)
    shape = indices.shape + dim
    dtype = tf.as_dtype(dtype)
    on, off = tf.cast(on_value, dtype), tf.cast(off_value, dtype)
    if indices.mesh.num_splits(dim) == 1 and indices.dtype in (tf.int32, tf.int64):
        # Takes a third of the comparison's time.
        return lay_out(indices, tf.one_hot(indices.value, dim.size, on, off), shape)
    positions = range(indices.mesh, dim, indices.dtype)
    is_index = tf.equal(align(indices.value, indices.shape, shape), positions.value)
    return lay_out(indices, tf.where(is_index, on, off), shape)
