"""Concatenation, slicing, stacking and padding; a dimension that is split is gathered first."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.placement import engine
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape, convert_to_dimension
from mtfrun.mtf.tensor import (
    Tensor,
    TensorLike,
    as_tensor,
    gather_along,
    lay_out,
    lay_out_gathered,
    reorder,
)


@accept_name
def concat(xs: Sequence[TensorLike], concat_dim_name: str) -> Tensor:
    """Returns tensors concatenated along a dimension; a ShapeError if another differs."""
    tensors = [as_tensor(x) for x in xs]
    if not tensors:
        raise ShapeError("concat needs at least one tensor")
    first = tensors[0].shape
    axis = first.index(first.get_dim_by_name(concat_dim_name))
    dims = [x.shape.get_dim_by_name(concat_dim_name) for x in tensors]
    parts = [
        gather_along(reorder(x, first.resize_dimension(concat_dim_name, dim.size)), dim)
        for x, dim in zip(tensors, dims, strict=True)
    ]
    shape = first.resize_dimension(concat_dim_name, sum(dim.size for dim in dims))
    return lay_out_gathered(tensors[0], tf.concat(parts, axis), shape, shape[axis])


@accept_name
def split(
    x: TensorLike, split_dim: DimensionLike, num_or_size_splits: int | Sequence[int]
) -> list[Tensor]:
    """Returns x split along a dimension into a number of equal parts, or parts of these sizes."""
    x = as_tensor(x)
    dim = convert_to_dimension(split_dim)
    x.shape.index(dim)
    if isinstance(num_or_size_splits, int):
        number = num_or_size_splits
        if number < 1 or dim.size % number:
            raise ShapeError(f"{dim} cannot be split into {number} equal parts")
        sizes = [dim.size // number] * number
    else:
        sizes = list(num_or_size_splits)
        if sum(sizes) != dim.size:
            raise ShapeError(f"parts of {sizes} do not make up {dim}")
    gathered = gather_along(x, dim)
    return [_slice(x, gathered, dim, sum(sizes[:i]), size) for i, size in enumerate(sizes)]


@accept_name
def stack(xs: Sequence[TensorLike], dim_name: str, axis: int = 0) -> Tensor:
    """Returns tensors of one shape stacked along a new dimension, the result's at `axis`."""
    tensors = [as_tensor(x) for x in xs]
    if not tensors:
        raise ShapeError("stack needs at least one tensor")
    shape = tensors[0].shape
    position = axis if axis >= 0 else len(shape) + 1 + axis
    parts = [reorder(x, shape).value for x in tensors]
    dims = shape.dims
    dims.insert(position, Dimension(dim_name, len(tensors)))
    join = engine.stack if tensors[0].mesh.is_distributed else tf.stack
    return lay_out_gathered(tensors[0], join(parts, position), Shape(dims), dims[position])


@accept_name
def unstack(x: TensorLike, dim: DimensionLike) -> list[Tensor]:
    """Returns the entries along a dimension, each without it."""
    x = as_tensor(x)
    dim = convert_to_dimension(dim)
    axis = x.shape.index(dim)
    if not x.mesh.is_distributed:
        return [lay_out(x, part, x.shape - dim) for part in tf.unstack(x.value, axis=axis)]
    # Not tf.unstack: its gradient is tf.stack.
    parts = tf.split(gather_along(x, dim), dim.size, axis)
    # Each has the layout of x: with one more relayout an entry, deep models compile more slowly.
    return [Tensor(x.mesh, tf.squeeze(part, axis), x.shape - dim) for part in parts]


@accept_name
def slice(x: TensorLike, begin: int, size: int, slice_dim_name: str) -> Tensor:  # Mesh TF's name
    """Returns `size` entries from `begin` along a dimension; a ShapeError if they are outside."""
    x = as_tensor(x)
    dim = x.shape.get_dim_by_name(slice_dim_name)
    if begin < 0 or size < 1 or begin + size > dim.size:
        raise ShapeError(f"slice [{begin}, {begin + size}) is outside of {dim}")
    return x if size == dim.size else _slice(x, gather_along(x, dim), dim, begin, size)


def reduce_first(tensor: TensorLike, reduced_dim: DimensionLike) -> Tensor:
    """Returns the first entry along a dimension, without it."""
    x = as_tensor(tensor)
    dim = convert_to_dimension(reduced_dim)
    axis = x.shape.index(dim)
    part = _slice_value(x, gather_along(x, dim), dim, 0, 1)
    return lay_out(x, tf.squeeze(part, axis), x.shape - dim)


@accept_name
def pad(x: TensorLike, paddings: Sequence[int], dim_name: str, *, fill: float = 0.0) -> Tensor:
    """Returns x padded along a dimension, by default with zeros; `paddings` is (before, after)."""
    x = as_tensor(x)
    dim = x.shape.get_dim_by_name(dim_name)
    before, after = paddings
    if before < 0 or after < 0:
        raise ShapeError(f"paddings must not be negative, got {(before, after)} for {dim.name}")
    amounts = [[before, after] if d == dim else [0, 0] for d in x.shape]
    shape = x.shape.resize_dimension(dim_name, dim.size + before + after)
    value = tf.pad(gather_along(x, dim), amounts, constant_values=fill)
    return lay_out_gathered(x, value, shape, dim)


def _slice(x: Tensor, gathered: tf.Tensor, dim: Dimension, begin: int, size: int) -> Tensor:
    shape = x.shape.resize_dimension(dim.name, size)
    return lay_out_gathered(x, _slice_value(x, gathered, dim, begin, size), shape, dim)


def _slice_value(
    x: Tensor, gathered: tf.Tensor, dim: Dimension, begin: int, size: int
) -> tf.Tensor:
    begins = [begin if d == dim else 0 for d in x.shape]
    return tf.slice(gathered, begins, [size if d == dim else d.size for d in x.shape])
