"""Selection by index."""

from __future__ import annotations

import tensorflow as tf

from mtfrun.mtf.broadcasting import align, union
from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.errors import ShapeError
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

    Dimensions that `weights` and `indices` share go together (a batched gather).

    What it costs on several devices: a table, without shared dimensions, whose `dim` is split is
    gathered first, and its gradient is made whole on every device before it is cut. (A contraction
    with one-hot indices avoids both and took ten times as long for an embedding of 8192 x 256 and
    1024 tokens.) In other gathers every device looks up what is its own, and the result is summed;
    the gradient of a batched gather is a contraction with one-hot indices. Where dimensions of
    `indices` other than shared ones are split, all but the first are gathered.

    Args:
      weights: {dim, ...}.
      indices: any shape without `dim`, integers; or a Python number.
      dim: the dimension that the indices select from.
      output_shape: by default the dimensions of `indices`, then those of `weights` that are left.
    """
    weights = as_tensor(weights)
    if isinstance(indices, int):
        indices = constant(weights.mesh, indices, dtype=tf.int32)
    indices = as_tensor(indices)
    dim = convert_to_dimension(dim)
    weights.shape.index(dim)
    if dim in indices.shape:
        raise ShapeError(
            f"the indices {indices.shape} of a gather along {dim.name!r} must not have it "
            "themselves: rename it in one of the two (mtf.rename_dimension)"
        )
    batch = Shape(d for d in indices.shape if d in weights.shape)
    axis = weights.mesh.axis_of(dim)
    apart = all(weights.mesh.axis_of(d) != axis for d in indices.shape)
    is_table = indices.shape.ndims > 0 and not batch.ndims
    if weights.mesh.num_splits(dim) > 1 and apart and not is_table:
        return _gather_in_parts(weights, indices, dim, output_shape)
    rest = weights.shape - dim - batch
    # Storage order in which tf.gather takes them: shared dimensions first.
    table = transposed(weights, Shape([*batch, dim, *rest]))
    index = transposed(indices, Shape([*batch, *(indices.shape - batch)]))
    if batch.ndims and table.mesh.is_distributed and table.dtype.is_floating:
        result = custom_gradient(
            lambda table, index: _gather(table, index, dim),
            lambda inputs, outputs, grads: [_scattered(grads[0], index, dim, table.shape), None],
            [table, index],
        )
    else:
        result = _gather(table, index, dim)
    if output_shape is None:
        output_shape = union(indices.shape, rest)
    return transposed(result, convert_to_shape(output_shape))


def _gather_in_parts(
    weights: Tensor, indices: Tensor, dim: Dimension, output_shape: ShapeLike | None
) -> Tensor:
    """Gathers along a dimension that is split: zeros for what others have, then a sum."""
    part = Dimension(dim.name, weights.mesh.num_splits(dim))
    own = Dimension(f"{dim.name}_part", dim.size // part.size)
    at = weights.shape.index(dim)
    dims = weights.shape.dims
    in_parts = reshape(weights, [*dims[:at], part, own, *dims[at + 1 :]])
    # Others' indices are outside of the part.
    own_indices = indices - range(indices.mesh, part, indices.dtype) * own.size
    found = gather(in_parts, own_indices, own)
    shape = found.shape - part if output_shape is None else convert_to_shape(output_shape)
    return reduce_sum(found, output_shape=shape)


def _gather(table: Tensor, index: Tensor, dim: Dimension) -> Tensor:
    """table: {batch..., dim, rest...}; index: {batch..., others...}, both in this order."""
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
    """Returns the gradient of the table: DTensor's own is whole on every device."""
    return einsum([one_hot(index, dim, dtype=grad.dtype), grad], shape)
