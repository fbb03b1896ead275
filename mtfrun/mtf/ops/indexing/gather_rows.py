"""Selection along several dimensions at once: moving rows."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtfrun.mtf.broadcasting import align, union
from mtfrun.mtf.dimension import Dimension
from mtfrun.mtf.errors import ShapeError
from mtfrun.mtf.ops.lift import laid_out, transposed
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def gather_rows(
    x: TensorLike, indices: Sequence[tuple[Dimension, TensorLike]], output_shape: ShapeLike
) -> Tensor:
    """Returns the entries of x at places given by an index along each of some dimensions.

    For x {b, e, c, m} and indices of e and c, {b, s} each: the rows {b, s, m} = x[b, e[b, s],
    c[b, s], m]. Dimensions that x and the indices share (b) go together and may be split;
    the dimensions that are selected from may not. A negative index selects the first entry.
    There is no gradient: who knows the inverse map writes it as another selection.

    On one device the rows are written in the order of `output_shape` at once, with one gather and
    no transpose.

    Args:
      x: the table.
      indices: pairs of a dimension of x and int32 positions in it.
      output_shape: dimensions of the indices in any order, then those of x that are left, in the
        order that x has them.

    Raises:
      ShapeError: the output lacks a dimension, or a dimension that is left does not come last.
    """
    x = as_tensor(x)
    shape = convert_to_shape(output_shape)
    picked = [dim for dim, _ in indices]
    places = [as_tensor(index) for _, index in indices]
    of_indices = union(*(place.shape for place in places))
    shared = Shape(dim for dim in x.shape if dim in of_indices)
    rest = x.shape - Shape(picked) - shared
    if set(shape) != {*of_indices, *rest} or shape.dims[len(of_indices) :] != rest.dims:
        raise ShapeError(
            f"rows of {x.shape} selected along {Shape(picked)} by {of_indices} have the dimensions "
            f"{of_indices + rest}, those of the row last: not {shape}"
        )
    if x.mesh.is_distributed:
        return _gather_batched(x, picked, places, shared, of_indices, rest, shape)
    return _gather_flat(x, picked, places, shared, rest, shape)


def _gather_flat(
    x: Tensor, picked: list[Dimension], places: list[Tensor], shared: Shape, rest: Shape, out: Shape
) -> Tensor:
    """One gather from the list of all rows."""
    table_shape = Shape([*(x.shape - rest), *rest])
    table = transposed(x, table_shape).value
    row_dims = table_shape.dims[: len(table_shape) - len(rest)]
    index_shape = Shape(out.dims[: len(out) - len(rest)])
    by_dim = dict(zip(picked, places, strict=True))
    number: tf.Tensor | None = None
    stride = 1
    for dim in reversed(row_dims):
        if dim in shared:
            only = Shape([dim])
            part = align(tf.range(dim.size, dtype=tf.int32), only, index_shape)
        else:
            place = by_dim[dim]
            part = align(tf.maximum(place.value, 0), place.shape, index_shape)
        part = part * stride if stride > 1 else part
        number = part if number is None else number + part
        stride *= dim.size
    number = tf.broadcast_to(number, index_shape.to_integer_list)
    rows = tf.reshape(table, [stride, *rest.to_integer_list])
    return Tensor(x.mesh, tf.gather(rows, number), out)


def _gather_batched(
    x: Tensor,
    picked: list[Dimension],
    places: list[Tensor],
    shared: Shape,
    of_indices: Shape,
    rest: Shape,
    out: Shape,
) -> Tensor:
    """A gather in which every device finds all rows among its own."""
    table = transposed(x, Shape([*shared, *picked, *rest]))
    sizes = shared.to_integer_list
    rows = Shape(picked).size
    value = tf.reshape(table.value, [*sizes, rows, *rest.to_integer_list])
    index_shape = Shape([*shared, *(of_indices - shared)])
    number = tf.zeros([], tf.int32)
    for dim, place in zip(picked, places, strict=True):
        number = number * dim.size + align(tf.maximum(place.value, 0), place.shape, index_shape)
    index = laid_out(x, tf.broadcast_to(number, index_shape.to_integer_list), index_shape)
    gathered = tf.gather(value, index.value, axis=len(shared), batch_dims=len(shared))
    return transposed(laid_out(x, gathered, index_shape + rest), out)
