"""Selection of entries along a dimension by their index, and replacement of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from mtfrun.errors import ShapeError
from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.binary import equal, greater_equal, less, logical_and, multiply, sub, where
from mtfrun.mtf.ops.constants import constant, one_hot, range, zeros
from mtfrun.mtf.ops.contraction import einsum
from mtfrun.mtf.ops.reductions import reduce_sum
from mtfrun.mtf.ops.structure import replace_dimensions
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.shape import (
    Dimension,
    DimensionLike,
    Shape,
    ShapeLike,
    convert_to_dimension,
    convert_to_shape,
    union,
)
from mtfrun.mtf.tensor import Tensor, TensorLike, align, as_tensor, lay_out, reorder

# Of more rows every slice that is written for itself costs more than a selection.
_MOST_SLICES = 32


def gather(
    weights: TensorLike,
    indices: TensorLike | int,
    dim: DimensionLike,
    output_shape: ShapeLike | None = None,
) -> Tensor:
    """Returns the entries of `weights` {dim, ...} at integer `indices` along `dim`, else zeros.

    Dimensions that both share are batch dimensions. By default the result has the dimensions of
    `indices`, then the remaining ones of `weights`.

    On several devices every device looks up the entries that it holds, and the results are summed.
    The gradient of a table, without shared dimensions, is summed where its entries are; a batched
    gather's is a contraction with one-hot indices. Where `indices` are split over the axis of `dim`
    the table is gathered. (For a table of 8192 x 256 and 1024 indices a contraction with one-hot
    indices takes ten times as long.)
    """
    weights = as_tensor(weights)
    if isinstance(indices, int):
        indices = constant(weights.mesh, indices, dtype=tf.int32)
    indices = as_tensor(indices)
    dim = convert_to_dimension(dim)
    weights.shape.index(dim)
    if dim in indices.shape:
        raise ShapeError(f"gather along {dim.name!r}: rename it in the indices {indices.shape}")
    batch = Shape(d for d in indices.shape if d in weights.shape)
    axis = weights.mesh.axis_of(dim)
    apart = all(weights.mesh.axis_of(d) != axis for d in indices.shape)
    num_parts = weights.mesh.num_splits(dim) if apart else 1
    is_table = indices.shape.ndims > 0 and not batch.ndims
    if weights.mesh.is_distributed and is_table and weights.dtype.is_floating:
        return _look_up(weights, indices, dim, num_parts, output_shape)
    if num_parts > 1 and not is_table:
        return _gather_in_parts(weights, indices, dim, output_shape)
    row = weights.shape - dim - batch
    # Storage order in which tf.gather takes them: shared dimensions first.
    table = reorder(weights, Shape([*batch, dim, *row]))
    index = reorder(indices, Shape([*batch, *(indices.shape - batch)]))
    if batch.ndims and table.mesh.is_distributed and table.dtype.is_floating:

        def gradient(_inputs: Any, _outputs: Any, grads: Any) -> list[Tensor | None]:
            # TensorFlow's would be whole on every device.
            is_entry = one_hot(index, dim, dtype=table.dtype)
            return [einsum([is_entry, grads[0]], table.shape), None]

        result = custom_gradient(
            lambda table, index: _gather(table, index, dim), gradient, [table, index]
        )
    else:
        result = _gather(table, index, dim)
    if output_shape is None:
        output_shape = union(indices.shape, row)
    return reorder(result, convert_to_shape(output_shape))


def _look_up(
    table: Tensor, indices: Tensor, dim: Dimension, num_parts: int, output_shape: ShapeLike | None
) -> Tensor:
    """Returns a gather from a table of which every device holds one part along `dim`, or all.

    An index is a part and a position in it. A device looks up all positions in its part, with zeros
    for another part, and adds the gradient there, of another part's zeros too.
    """
    # With the name of `dim` it is on the axis of `dim`.
    parts = Shape([Dimension(dim.name, num_parts)] if num_parts > 1 else [])
    inner = Dimension(f"{dim.name}_part", dim.size // num_parts)
    row = table.shape - dim
    in_parts = replace_dimensions(table, dim, [*parts, inner])
    position, number = indices % inner.size, indices // inner.size
    is_in_part = equal(number, range(indices.mesh, parts[0], number.dtype) if parts.ndims else 0)

    def look_up(rows: Tensor) -> Tensor:
        value = tf.gather(rows.value, position.value)
        entries = lay_out(rows, value, [*indices.shape, *parts, *row])
        return reduce_sum(where(is_in_part, entries, 0), output_shape=[*indices.shape, *row])

    def gradient(inputs: Any, _outputs: Any, grads: Any) -> list[Tensor]:
        in_part = where(is_in_part, grads[0], 0, [*indices.shape, *parts, *row])
        # DTensor sums over the axes of all dimensions of the indices.
        value = tf.math.unsorted_segment_sum(in_part.value, position.value, inner.size)
        return [lay_out(table, value, inputs[0].shape)]

    result = custom_gradient(look_up, gradient, [reorder(in_parts, Shape([inner, *parts, *row]))])
    return result if output_shape is None else reorder(result, convert_to_shape(output_shape))


def _gather_in_parts(
    weights: Tensor, indices: Tensor, dim: Dimension, output_shape: ShapeLike | None
) -> Tensor:
    """Returns a gather along a split dimension: a sum over its parts, zero except in one."""
    part = Dimension(dim.name, weights.mesh.num_splits(dim))
    inner = Dimension(f"{dim.name}_part", dim.size // part.size)
    in_parts = replace_dimensions(weights, dim, [part, inner])
    # Indices into other parts are out of range.
    part_indices = indices - range(indices.mesh, part, indices.dtype) * inner.size
    by_part = gather(in_parts, part_indices, inner)
    shape = by_part.shape - part if output_shape is None else convert_to_shape(output_shape)
    return reduce_sum(by_part, output_shape=shape)


def _gather(table: Tensor, index: Tensor, dim: Dimension) -> Tensor:
    """Returns a gather from {*batch, dim, *row} by indices {*batch, ...}, both in this order."""
    axis = table.shape.index(dim)
    shape = union(index.shape, table.shape - dim)
    inside = tf.logical_and(index.value >= 0, index.value < dim.size)
    indices = tf.where(inside, index.value, tf.zeros_like(index.value))
    value = tf.gather(table.value, indices, axis=axis, batch_dims=axis)
    mask = align(inside, index.shape, shape)
    return lay_out(table, tf.where(mask, value, tf.zeros([], value.dtype)), shape)


def gather_rows(
    x: TensorLike, indices: Sequence[tuple[Dimension, TensorLike]], output_shape: ShapeLike
) -> Tensor:
    """Returns the rows of x at the positions that int32 indices along several dimensions select.

    For x {b, e, c, m} and indices of e and c, {b, s} each: the rows {b, s, m} = x[b, e[b, s], c[b,
    s], m]. Shared dimensions (b) may be split, selected ones may not. A negative index selects the
    first entry. The output has the dimensions of the indices in any order, then the row's in x's
    order: else a ShapeError. On one device one gather writes them so, without a transpose. There is
    no gradient: a caller with the inverse map writes it as another selection.
    """
    x = as_tensor(x)
    shape = convert_to_shape(output_shape)
    by_dim = {dim: as_tensor(index) for dim, index in indices}
    index_dims = union(*(index.shape for index in by_dim.values()))
    batch = Shape(dim for dim in x.shape if dim in index_dims)
    row = x.shape - Shape(by_dim) - batch
    if set(shape) != {*index_dims, *row} or shape.dims[len(index_dims) :] != row.dims:
        raise ShapeError(
            f"rows of {x.shape} selected along {Shape(by_dim)} by {index_dims} have the dimensions "
            f"{index_dims + row}, the row's last: not {shape}"
        )
    if x.mesh.is_distributed:
        return _composed_gather(x, by_dim, batch, index_dims, row, shape)
    return _fused_gather(x, by_dim, batch, row, shape)


def _fused_gather(
    x: Tensor, indices: Mapping[Dimension, Tensor], batch: Shape, row: Shape, output_shape: Shape
) -> Tensor:
    outer = (x.shape - row).dims
    table = reorder(x, Shape([*outer, *row])).value
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
    index_dims: Shape,
    row: Shape,
    output_shape: Shape,
) -> Tensor:
    """Returns a batched gather, in which every device selects among the rows that it holds."""
    table = reorder(x, Shape([*batch, *indices, *row]))
    num_rows = Shape(indices).size
    value = tf.reshape(table.value, [*batch.to_integer_list, num_rows, *row.to_integer_list])
    index_shape = Shape([*batch, *(index_dims - batch)])
    number = tf.zeros([], tf.int32)
    for dim, index in indices.items():
        number = number * dim.size + align(tf.maximum(index.value, 0), index.shape, index_shape)
    numbers = lay_out(x, tf.broadcast_to(number, index_shape.to_integer_list), index_shape)
    gathered = tf.gather(value, numbers.value, axis=len(batch), batch_dims=len(batch))
    return reorder(lay_out(x, gathered, index_shape + row), output_shape)


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
    if is_traced_for_xla(x.mesh):
        return _write_for_xla(x, entry, dim, position, condition)
    is_written = equal(range(x.mesh, dim), position)
    if condition is not None:
        is_written = logical_and(condition, is_written, output_shape=[*condition.shape, dim])
    return where(is_written, entry, x, output_shape=x.shape)


def mutable_zeros(mesh: Mesh, shape: ShapeLike, dtype: tf.DType = tf.float32) -> Tensor:
    """Returns zeros that `add_position` may change."""
    x = zeros(mesh, shape, dtype)
    if mesh.is_distributed or is_traced_for_xla(mesh):
        return x
    # Zeros may be a constant of the program, which its next run has too.
    return lay_out(x, tf.raw_ops.DeepCopy(x=x.value), x.shape)


def add_position(x: Tensor, entry: TensorLike, dim: DimensionLike, position: Tensor) -> Tensor:
    """Returns x with `entry` added at one index along its first dimension.

    x: {dim, ...}, from `mutable_zeros` or this function, and used nowhere else: TensorFlow adds to
    its memory on one device. entry: the same without `dim`; position: an int32 scalar. It has no
    gradient.
    """
    dim = convert_to_dimension(dim)
    if x.shape.index(dim):
        raise ShapeError(f"add_position: {dim} must be the first dimension of {x.shape}")
    entry = reorder(as_tensor(entry), x.shape - dim)
    if x.mesh.is_distributed:
        is_position = one_hot(position, dim, dtype=x.dtype)
        return x + multiply(is_position, entry, output_shape=x.shape)
    entries = tf.expand_dims(entry.value, 0)
    if is_traced_for_xla(x.mesh):
        value = tf.tensor_scatter_nd_add(x.value, tf.reshape(position.value, [1, 1]), entries)
    else:
        value = tf.raw_ops.InplaceAdd(x=x.value, i=tf.reshape(position.value, [1]), v=entries)
    return lay_out(x, value, x.shape)


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


def write_block(
    x: TensorLike, block: TensorLike, dim: DimensionLike, block_dim: Dimension, starts: Tensor
) -> Tensor:
    """Returns x with a block of entries along a dimension, as a cache is after several positions.

    x: {..., dim, ...}; block: the same with `block_dim` for `dim`; starts: int32, the index of the
    first entry, a scalar, or {batch} with an index for each row along this dimension of x.
    The block must lie inside. For XLA on one device see `write_position`.
    """
    x, block = as_tensor(x), as_tensor(block)
    dim = convert_to_dimension(dim)
    if is_traced_for_xla(x.mesh) and starts.shape.size <= _MOST_SLICES:
        return _write_slices(x, block, dim, block_dim, starts)
    outer = [d for d in x.shape if d in starts.shape]
    index = sub(range(x.mesh, dim), starts, output_shape=[*outer, dim])
    inside = logical_and(greater_equal(index, 0), less(index, block_dim.size))
    return where(inside, gather(block, index, block_dim, x.shape), x, output_shape=x.shape)


def _write_slices(
    x: Tensor, block: Tensor, dim: Dimension, block_dim: Dimension, starts: Tensor
) -> Tensor:
    dims = [block_dim if d == dim else d for d in x.shape]
    update, value = reorder(block, Shape(dims)).value, x.value
    if not starts.shape.ndims:
        slices = [(update, {dim: starts.value})]
    else:
        (batch,) = starts.shape
        rows = tf.split(update, batch.size, x.shape.index(batch))
        places = ({dim: start, batch: row} for row, start in enumerate(tf.unstack(starts.value)))
        slices = list(zip(rows, places, strict=True))
    for entries, place in slices:
        index = tf.stack([place.get(d, 0) for d in x.shape])
        value = xla.dynamic_update_slice(value, entries, index)
    return lay_out(x, value, x.shape)
