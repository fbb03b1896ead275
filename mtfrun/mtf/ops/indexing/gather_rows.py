"""Selection of rows by indices along several dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.broadcasting import align, union
from mtfrun.mtf.dimension import Dimension
from mtfrun.mtf.ops.lift import laid_out, transposed
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def gather_rows(
    x: TensorLike, indices: Sequence[tuple[Dimension, TensorLike]], output_shape: ShapeLike
) -> Tensor:
    """Returns the rows of x at the positions that indices along several dimensions select.

    For x {b, e, c, m} and indices of e and c, {b, s} each: the rows {b, s, m} = x[b, e[b, s],
    c[b, s], m]. Dimensions that x and the indices share (b) are batch dimensions and may be split;
    the dimensions that are selected from may not. A negative index selects the first entry.
    There is no gradient: a caller that knows the inverse map writes it as another selection.

    On one device one gather, without a transpose, writes the rows in the order of `output_shape`.

    Args:
      x: the table.
      indices: pairs of a dimension of x and int32 positions in it.
      output_shape: dimensions of the indices in any order, then the dimensions of a row, which are
        the other ones of x in x's order.

    Raises:
      ShapeError: the output lacks a dimension, or the dimensions of a row are not its last ones.
    """
    x = as_tensor(x)
    shape = convert_to_shape(output_shape)
    by_dim = {dim: as_tensor(index) for dim, index in indices}
    of_indices = union(*(index.shape for index in by_dim.values()))
    batch = Shape(dim for dim in x.shape if dim in of_indices)
    row = x.shape - Shape(by_dim) - batch
    if set(shape) != {*of_indices, *row} or shape.dims[len(of_indices) :] != row.dims:
        raise ShapeError(
            f"rows of {x.shape} selected along {Shape(by_dim)} by {of_indices} have the dimensions "
            f"{of_indices + row}, those of the row last: not {shape}"
        )
    if x.mesh.is_distributed:
        return _composed_gather(x, by_dim, batch, of_indices, row, shape)
    return _fused_gather(x, by_dim, batch, row, shape)


def _fused_gather(
    x: Tensor, indices: Mapping[Dimension, Tensor], batch: Shape, row: Shape, output_shape: Shape
) -> Tensor:
    """Returns one gather from the list of all rows."""
    table_shape = Shape([*(x.shape - row), *row])
    table = transposed(x, table_shape).value
    outer = table_shape.dims[: len(table_shape) - len(row)]
    index_shape = Shape(output_shape.dims[: len(output_shape) - len(row)])
    number: tf.Tensor | None = None
    stride = 1
    for dim in reversed(outer):
        if dim in batch:
            part = align(tf.range(dim.size, dtype=tf.int32), Shape([dim]), index_shape)
        else:
            index = indices[dim]
            part = align(tf.maximum(index.value, 0), index.shape, index_shape)
        part = part * stride if stride > 1 else part
        number = part if number is None else number + part
        stride *= dim.size
    number = tf.broadcast_to(number, index_shape.to_integer_list)
    rows = tf.reshape(table, [stride, *row.to_integer_list])
    return Tensor(x.mesh, tf.gather(rows, number), output_shape)


def _composed_gather(
    x: Tensor,
    indices: Mapping[Dimension, Tensor],
    batch: Shape,
    of_indices: Shape,
    row: Shape,
    output_shape: Shape,
) -> Tensor:
    """Returns a batched gather, in which every device selects among the rows that it holds."""
    table = transposed(x, Shape([*batch, *indices, *row]))
    num_rows = Shape(indices).size
    value = tf.reshape(table.value, [*batch.to_integer_list, num_rows, *row.to_integer_list])
    index_shape = Shape([*batch, *(of_indices - batch)])
    number = tf.zeros([], tf.int32)
    for dim, index in indices.items():
        number = number * dim.size + align(tf.maximum(index.value, 0), index.shape, index_shape)
    numbers = laid_out(x, tf.broadcast_to(number, index_shape.to_integer_list), index_shape)
    gathered = tf.gather(value, numbers.value, axis=len(batch), batch_dims=len(batch))
    return transposed(laid_out(x, gathered, index_shape + row), output_shape)
