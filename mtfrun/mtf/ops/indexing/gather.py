"""Selection of entries along one dimension by index."""

from __future__ import annotations

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.broadcasting import align, union
from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.constants import constant, one_hot, range
from mtfrun.mtf.ops.contraction import einsum
from mtfrun.mtf.ops.lift import laid_out, transposed
from mtfrun.mtf.ops.reductions import reduce_sum
from mtfrun.mtf.ops.structure import reshape
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def gather(
    weights: TensorLike,
    indices: TensorLike | int,
    dim: DimensionLike,
    output_shape: ShapeLike | None = None,
) -> Tensor:
    """Returns the entries of `weights` at `indices` along `dim`; zeros where out of range.

    Dimensions that `weights` and `indices` share are batch dimensions (a batched gather).

    The cost on several devices: a table, without shared dimensions, whose `dim` is split is
    gathered first, and every device holds all of its gradient before that is split. (A contraction
    with one-hot indices avoids both and took ten times as long for an embedding of 8192 x 256 and
    1024 tokens.) In other gathers every device looks up the entries that it holds, and the results
    are summed; the gradient of a batched gather is a contraction with one-hot indices. Where
    dimensions of `indices` other than shared ones are split, all but the first are gathered.

    Args:
      weights: {dim, ...}.
      indices: integers of any shape without `dim`, or a Python integer.
      dim: the dimension that the indices select from.
      output_shape: by default the dimensions of `indices`, then the other ones of `weights`.
    """
    weights = as_tensor(weights)
    if isinstance(indices, int):
        indices = constant(weights.mesh, indices, dtype=tf.int32)
    indices = as_tensor(indices)
    dim = convert_to_dimension(dim)
    weights.shape.index(dim)
    if dim in indices.shape:
        raise ShapeError(
            f"the indices {indices.shape} of a gather along {dim.name!r} must not have this "
            "dimension: rename it in one of the two (mtf.rename_dimension)"
        )
    batch = Shape(d for d in indices.shape if d in weights.shape)
    axis = weights.mesh.axis_of(dim)
    apart = all(weights.mesh.axis_of(d) != axis for d in indices.shape)
    is_table = indices.shape.ndims > 0 and not batch.ndims
    if weights.mesh.num_splits(dim) > 1 and apart and not is_table:
        return _gather_in_parts(weights, indices, dim, output_shape)
    row = weights.shape - dim - batch
    # Storage order in which tf.gather takes them: shared dimensions first.
    table = transposed(weights, Shape([*batch, dim, *row]))
    index = transposed(indices, Shape([*batch, *(indices.shape - batch)]))
    if batch.ndims and table.mesh.is_distributed and table.dtype.is_floating:
        result = custom_gradient(
            lambda table, index: _gather(table, index, dim),
            lambda _inputs, _outputs, grads: [_scattered(grads[0], index, dim, table.shape), None],
            [table, index],
        )
    else:
        result = _gather(table, index, dim)
    if output_shape is None:
        output_shape = union(indices.shape, row)
    return transposed(result, convert_to_shape(output_shape))


def _gather_in_parts(
    weights: Tensor, indices: Tensor, dim: Dimension, output_shape: ShapeLike | None
) -> Tensor:
    """Returns a gather along a split dimension: a sum over its parts, zero except in one."""
    part = Dimension(dim.name, weights.mesh.num_splits(dim))
    own = Dimension(f"{dim.name}_part", dim.size // part.size)
    at = weights.shape.index(dim)
    dims = weights.shape.dims
    in_parts = reshape(weights, [*dims[:at], part, own, *dims[at + 1 :]])
    # Indices into other parts are out of range.
    own_indices = indices - range(indices.mesh, part, indices.dtype) * own.size
    by_part = gather(in_parts, own_indices, own)
    shape = by_part.shape - part if output_shape is None else convert_to_shape(output_shape)
    return reduce_sum(by_part, output_shape=shape)


def _gather(table: Tensor, index: Tensor, dim: Dimension) -> Tensor:
    """Returns a gather from {*batch, dim, *row} by indices {*batch, ...}, both in this order."""
    axis = table.shape.index(dim)
    shape = union(index.shape, table.shape - dim)
    inside = tf.logical_and(index.value >= 0, index.value < dim.size)
    value = tf.gather(
        table.value,
        tf.where(inside, index.value, tf.zeros_like(index.value)),
        axis=axis,
        batch_dims=axis,
    )
    mask = align(inside, index.shape, shape)
    return laid_out(table, tf.where(mask, value, tf.zeros([], value.dtype)), shape)


def _scattered(grad: Tensor, index: Tensor, dim: Dimension, shape: Shape) -> Tensor:
    """Returns the gradient of the table, which by DTensor's own every device would hold whole."""
    return einsum([one_hot(index, dim, dtype=grad.dtype), grad], shape)
