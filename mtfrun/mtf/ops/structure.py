"""Operations that change the dimensions of a tensor, not its entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast, overload

import numpy as np
import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import (
    Dimension,
    DimensionLike,
    Shape,
    ShapeLike,
    anonymous_shape,
    convert_to_dimension,
    convert_to_shape,
)
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, combine, lay_out, reorder
from mtfrun.mtf.transfer import import_tf_tensor

# One dimension or several.
Dimensions: TypeAlias = "DimensionLike | Sequence[DimensionLike]"


@accept_name
def transpose(x: TensorLike, new_shape: ShapeLike) -> Tensor:
    """Returns x with its dimensions in another storage order."""
    return reorder(x, convert_to_shape(new_shape))


def broadcast(x: TensorLike, new_shape: ShapeLike) -> Tensor:
    """Returns x repeated along the dimensions that it lacks."""
    x = as_tensor(x)
    shape = convert_to_shape(new_shape)
    return Tensor(x.mesh, combine(tf.identity, x.mesh, [x.value], [x.shape], shape), shape)


@accept_name
def reshape(x: TensorLike, new_shape: ShapeLike) -> Tensor:
    """Returns the same entries, in storage order, with other dimensions of the same total size.

    It splits, merges and renames dimensions; it never transposes. Where the layout changes, values
    move by an all-gather or all-to-all, by which mixtures of experts exchange tokens: an all-to-all
    for up to three dimensions, and where an axis moves from or to the first dimension.
    """
    x = as_tensor(x)
    shape = convert_to_shape(new_shape)
    if x.shape == shape:
        return x
    if x.shape.size != shape.size:
        sizes = f"of {x.shape.size} entries cannot be reshaped to {shape} of {shape.size}"
        raise ShapeError(f"{x.shape} {sizes}: the sizes must have the same product")
    if x.shape.to_integer_list == shape.to_integer_list:
        # The layout is set before and after: otherwise DTensor cannot lay out the gradient of an
        # argument of the program that is split differently here.
        return _lay_out_from(x, x.mesh.constrain(x.value, x.shape), x.shape, shape)
    if not x.mesh.is_distributed:
        return lay_out(x, tf.reshape(x.value, shape.to_integer_list), shape)
    before, after = _name_splits(x, shape)
    # The layout is set before and after: otherwise DTensor chooses the layout that the following
    # operation needs, and where that is another split, regroups each device's entries as if they
    # were all.
    value = tf.reshape(x.mesh.constrain(x.value, before), shape.to_integer_list)
    return _lay_out_from(x, x.mesh.constrain(value, after), after, shape)


def _lay_out_from(x: Tensor, value: tf.Tensor, before: Shape, shape: Shape) -> Tensor:
    """Returns `value`, laid out for `before`, laid out for `shape`, which has the same sizes.

    DTensor's all-to-all permutes entries of four and more dimensions where neither of the two is
    the first (measured, eagerly and compiled). There the axis is gathered instead.
    """
    old, new = x.mesh.partition(before), x.mesh.partition(shape)
    changed = [pair for pair in zip(old[1:], new[1:], strict=True) if pair[0] != pair[1]]
    moved = {axis for axis, _ in changed} & {axis for _, axis in changed} - {None}
    if shape.ndims > 3 and moved:
        names = [
            f"_whole_{i}" if axis in moved else dim.name
            for i, (axis, dim) in enumerate(zip(old, before, strict=True))
        ]
        value = x.mesh.constrain(value, _rename(before, names))
    return lay_out(x, value, shape)


def _name_splits(x: Tensor, shape: Shape) -> tuple[Shape, Shape]:
    """Returns x's shape and `shape` with names that have only the splits a reshape preserves.

    DTensor can reshape a split dimension that is neither merged nor divided, or that leads its
    group; the dimensions of other groups are gathered first.
    """
    before = list(x.shape.dimension_names)
    after = [f"_whole_{i}" for i in range(shape.ndims)]
    for old, new in _groups(x.shape, shape):
        split = [dim for dim in old if x.mesh.num_splits(dim) > 1]
        if not split:
            continue
        if len(old) == 1 and len(new) == 1:
            after[shape.index(new[0])] = old[0].name
            continue
        leads = len(split) == 1 and all(d.size == 1 for d in old[: old.index(split[0])])
        first = next((dim for dim in new if dim.size > 1), None)
        if leads and first is not None and x.mesh.axis_of(first) != x.mesh.axis_of(split[0]):
            leads = False
        if leads and first is not None and first.size % x.mesh.num_splits(split[0]) == 0:
            after[shape.index(first)] = first.name
            continue
        for dim in old:
            before[x.shape.index(dim)] = f"{dim.name}_whole"
    return _rename(x.shape, before), _rename(shape, after)


def _rename(shape: Shape, names: Sequence[str]) -> Shape:
    return Shape(Dimension(name, dim.size) for name, dim in zip(names, shape, strict=True))


def _groups(old: Shape, new: Shape) -> list[tuple[list[Dimension], list[Dimension]]]:
    """Returns the smallest runs of old and new dimensions that have the same total size."""
    groups: list[tuple[list[Dimension], list[Dimension]]] = []
    olds, news = old.dims, new.dims
    while olds or news:
        left, right = [olds.pop(0)] if olds else [], [news.pop(0)] if news else []
        while (a := Shape(left).size) != (b := Shape(right).size):
            if a < b:
                left.append(olds.pop(0))
            else:
                right.append(news.pop(0))
        groups.append((left, right))
    return groups


@overload
def anonymize(x: Shape) -> Shape: ...
@overload
def anonymize(x: TensorLike) -> Tensor: ...
def anonymize(x: Shape | TensorLike) -> Shape | Tensor:
    """Returns a tensor or shape with names that have no layout rule: gathered on every device."""
    if isinstance(x, Shape):
        return anonymous_shape(x)
    x = as_tensor(x)
    return reshape(x, anonymous_shape(x.shape))


@accept_name
def import_fully_replicated(
    mesh: Mesh, tf_tensor: tf.Tensor | np.ndarray, shape: ShapeLike
) -> Tensor:
    """Returns a value that every device holds completely as a tensor laid out on the mesh."""
    shape = convert_to_shape(shape)
    return reshape(import_tf_tensor(mesh, tf_tensor, anonymous_shape(shape)), shape)


def rename_dimension(x: TensorLike, old_name: str, new_name: str) -> Tensor:
    """Returns x with one dimension renamed, laid out by the rule for the new name."""
    x = as_tensor(x)
    return reshape(x, x.shape.rename_dimension(old_name, new_name))


@overload
def replace_dimensions(
    tensor_or_shape: Shape, old_dim_or_dims: Dimensions, new_dim_or_dims: Dimensions
) -> Shape: ...
@overload
def replace_dimensions(
    tensor_or_shape: TensorLike, old_dim_or_dims: Dimensions, new_dim_or_dims: Dimensions
) -> Tensor: ...
def replace_dimensions(
    tensor_or_shape: Shape | TensorLike, old_dim_or_dims: Dimensions, new_dim_or_dims: Dimensions
) -> Shape | Tensor:
    """Returns x with adjacent dimensions replaced by dimensions of the same total size."""
    if not isinstance(tensor_or_shape, Shape):
        x = as_tensor(tensor_or_shape)
        return reshape(x, replace_dimensions(x.shape, old_dim_or_dims, new_dim_or_dims))
    shape = tensor_or_shape
    old, new = _dims(old_dim_or_dims), _dims(new_dim_or_dims)
    start = shape.index(old[0])
    if shape.dims[start : start + len(old)] != old:
        raise ShapeError(f"{Shape(old)} are not neighbours in {shape}: transpose first")
    return Shape(shape.dims[:start] + new + shape.dims[start + len(old) :])


def _dims(dims: Dimensions) -> list[Dimension]:
    if isinstance(dims, (Dimension, str)):
        return [convert_to_dimension(dims)]
    return convert_to_shape(cast(Sequence[DimensionLike], dims)).dims
