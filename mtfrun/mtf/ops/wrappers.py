"""Wrappers that lift TensorFlow functions to named tensors, around what DTensor cannot do."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def unary(tf_fn: Callable[[tf.Tensor], tf.Tensor], x: TensorLike) -> Tensor:
    """Returns an element-wise function of one tensor; the layout does not change."""
    x = as_tensor(x)
    return Tensor(x.mesh, tf_fn(x.value), x.shape)


def lay_out(x: Tensor, value: tf.Tensor, shape: ShapeLike) -> Tensor:
    """Returns `value` as a tensor on x's mesh, laid out by the rules for `shape`."""
    shape = convert_to_shape(shape)
    return Tensor(x.mesh, x.mesh.constrain(value, shape), shape)


def gather_along(x: Tensor, dim: Dimension) -> tf.Tensor:
    """Returns x's value, gathered along `dim` where that is split."""
    if x.mesh.num_splits(dim) == 1:
        return x.value
    return x.mesh.constrain(x.value, _unsplit(x.shape, dim))


def lay_out_gathered(x: Tensor, value: tf.Tensor, shape: ShapeLike, dim: Dimension) -> Tensor:
    """Returns `value`, computed with `dim` unsplit on every device, laid out by the rules.

    In two steps: DTensor otherwise lets an operation, or its gradient, compute with `dim` split
    although it cannot, and fails or gives wrong numbers.
    """
    shape = convert_to_shape(shape)
    if x.mesh.num_splits(dim) > 1:
        value = x.mesh.constrain(value, _unsplit(shape, dim))
    return lay_out(x, value, shape)


def _unsplit(shape: Shape, dim: Dimension) -> Shape:
    return Shape(Dimension(f"{d.name}_whole", d.size) if d.name == dim.name else d for d in shape)


def reorder(x: TensorLike, shape: Shape) -> Tensor:
    """Returns x with its dimensions in the order of `shape`, which has the same ones."""
    x = as_tensor(x)
    if x.shape == shape:
        return x
    if len(shape) != len(x.shape) or any(dim not in x.shape for dim in shape):
        raise ShapeError(f"{x.shape} cannot be transposed to {shape}: the dimensions differ")
    return lay_out(x, tf.transpose(x.value, [x.shape.index(dim) for dim in shape]), shape)


def reduction(
    tf_fn: Callable[..., tf.Tensor],
    x: TensorLike,
    output_shape: ShapeLike | None = None,
    reduced_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns tf_fn(value, axes) over `reduced_dim`, or over what `output_shape` lacks."""
    x = as_tensor(x)
    if reduced_dim is None:
        shape = convert_to_shape(output_shape if output_shape is not None else ())
        for dim in shape:
            x.shape.index(dim)
    elif output_shape is not None:
        raise ShapeError("give output_shape or reduced_dim, not both")
    else:
        dim = convert_to_dimension(reduced_dim)
        x.shape.index(dim)
        shape = x.shape - dim
    axes = [axis for axis, dim in enumerate(x.shape) if dim not in shape]
    if not axes:
        return reorder(x, shape)
    in_order = Shape(dim for dim in x.shape if dim in shape)
    return reorder(lay_out(x, tf_fn(x.value, axes), in_order), shape)


def apply_along(
    tf_fn: Callable[[tf.Tensor, int], tf.Tensor], x: TensorLike, dim: DimensionLike
) -> Tensor:
    """Returns tf_fn(value, axis): a function along one dimension that keeps the shape."""
    x = as_tensor(x)
    axis = x.shape.index(convert_to_dimension(dim))
    return lay_out(x, tf_fn(x.value, axis), x.shape)
