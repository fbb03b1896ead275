"""Sums of products over named dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.flops import add_product
from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.ops.joining import pad, slice
from mtfrun.mtf.ops.reductions import reduce_sum
from mtfrun.mtf.ops.structure import reshape, transpose
from mtfrun.mtf.parameters.low_rank import LowRankSum, equation
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import (
    Dimension,
    DimensionLike,
    Shape,
    ShapeLike,
    convert_to_dimension,
    convert_to_shape,
    union,
)
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out


@accept_name
def einsum(
    xs: Sequence[TensorLike],
    output_shape: ShapeLike | None = None,
    reduced_dims: Iterable[DimensionLike] | None = None,
) -> Tensor:
    """Returns the product of tensors of one type, broadcast by name, summed over some dimensions.

    Over `reduced_dims`, or all that `output_shape` lacks, or all that occur more than once.
    """
    tensors = [as_tensor(x) for x in xs]
    if not tensors:
        raise ShapeError("einsum needs at least one tensor")
    shape = _output_shape([x.shape for x in tensors], output_shape, reduced_dims)
    for x, y in (tensors, tensors[::-1]) if len(tensors) == 2 else ():
        if isinstance(y, LowRankSum) and all(
            dim in x.shape and dim not in shape for dim in y.reduced_dims
        ):
            return _low_rank_product(x, y, shape)
    result = _sum_private_dims(tensors[0], shape, tensors[1:])
    for i, x in enumerate(tensors[1:], start=2):
        remaining = tensors[i:]
        needed = union(shape, *(other.shape for other in remaining))
        pair_shape = Shape(d for d in union(result.shape, x.shape) if d in needed)
        x = _sum_private_dims(x, shape, [result, *remaining])
        result = _product(result, x, pair_shape if remaining else shape)
    return transpose(result, shape)


@accept_name
def matmul(
    a: TensorLike,
    b: TensorLike,
    output_shape: ShapeLike | None = None,
    reduced_dims: Iterable[DimensionLike] | None = None,
) -> Tensor:
    """Returns einsum([a, b], output_shape, reduced_dims)."""
    return einsum([a, b], output_shape, reduced_dims)


def _output_shape(
    shapes: Sequence[Shape],
    output_shape: ShapeLike | None,
    reduced_dims: Iterable[DimensionLike] | None,
) -> Shape:
    all_dims = union(*shapes)
    if output_shape is not None:
        if reduced_dims is not None:
            raise ShapeError("give einsum output_shape or reduced_dims, not both")
        shape = convert_to_shape(output_shape)
        for dim in shape - all_dims:
            raise ShapeError(
                f"einsum output {shape} has a new dimension {dim} in none of "
                f"{', '.join(map(str, shapes))}: add it with mtf.broadcast"
            )
        return shape
    if reduced_dims is None:
        reduced: list[Dimension] = [d for d in all_dims if sum(d in s for s in shapes) > 1]
    else:
        reduced = [convert_to_dimension(d) for d in reduced_dims]
        for dim in reduced:
            all_dims.index(dim)
    return all_dims - reduced


def _sum_private_dims(x: Tensor, output_shape: Shape, factors: Sequence[Tensor]) -> Tensor:
    """Sums over the dimensions that only x has: this costs least before the product."""
    shared = [d for d in x.shape if d in output_shape or any(d in f.shape for f in factors)]
    return x if len(shared) == len(x.shape) else reduce_sum(x, output_shape=shared)


def _low_rank_product(x: Tensor, y: LowRankSum, shape: Shape) -> Tensor:
    """Returns x * y; the low-rank part is two thin products: {..., rank}, then {rank, ...}."""
    thin = einsum([y.drop(x), y.down], output_shape=[*(x.shape - y.reduced_dims), y.rank])
    product = einsum([x, y.base], output_shape=shape)
    return product + einsum([thin * y.scale, y.up], output_shape=shape)


def _product(x: Tensor, y: Tensor, shape: Shape) -> Tensor:
    dims = union(x.shape, y.shape)
    if len(dims) > len(shape):  # otherwise a multiplication by element
        add_product(2 * dims.size, x.dtype)
    for vector, matrix in ((x, y), (y, x)):
        row = _single_row(vector, matrix, shape)
        if row is not None:
            padded = pad(vector, [0, 1], row.name)
            product = _pair_product(padded, matrix, shape.resize_dimension(row.name, 2))
            return slice(product, 0, 1, row.name)
    return _pair_product(x, y, shape)


def _single_row(x: Tensor, y: Tensor, shape: Shape) -> Dimension | None:
    """Returns the dimension of size 1 of a vector x, for a y that is reshaped to a matrix.

    XLA on a CPU fuses the reshape with a product of one row and does not vectorise it: 12 times the
    time of two rows for kernels {512, 8, 64}.
    """
    if len(y.shape) < 3 or not is_traced_for_xla(x.mesh):
        return None
    rows = [d for d in x.shape if d in shape and d not in y.shape]
    is_vector = all(d.size == 1 or (d in y.shape and d not in shape) for d in x.shape)
    return rows[0] if rows and is_vector else None


def _pair_product(x: Tensor, y: Tensor, shape: Shape) -> Tensor:
    product = _matmul(x, y, shape)
    if product is not None:
        return product
    value = tf.einsum(equation(x.shape, y.shape, shape), x.value, y.value)
    return lay_out(x, value, shape)


def _matmul(x: Tensor, y: Tensor, shape: Shape) -> Tensor | None:
    """Returns {*batch, *rows, *inner} times {*batch, *inner, *columns}, or None for other shapes.

    TensorFlow's einsum has a slower kernel for a batch: mixtures of experts, forward and backward,
    125 to 97 ms on one core, 122 to 108 on a simulated 2 x 2 mesh. Without a batch it is slower for
    several inner dimensions: all pixels of an image, one core, 23 to 11 ms.
    """
    batch = [d for d in x.shape if d in y.shape and d in shape]
    inner = [d for d in x.shape if d in y.shape and d not in shape]
    rows = [d for d in x.shape if d not in y.shape]
    columns = [d for d in y.shape if d not in x.shape]
    in_order = (
        x.shape.dims == batch + rows + inner
        and y.shape.dims == batch + inner + columns
        and shape.dims == batch + rows + columns
    )
    is_faster = (rows and inner and columns) if batch else len(inner) > 1
    if not in_order or not is_faster:
        return None
    if x.mesh.is_distributed:
        # DTensor cannot merge split dimensions, except for the first of a group.
        is_split = any(x.mesh.num_splits(d) > 1 for d in rows[1:])
        if not batch or len(inner) > 1 or len(columns) > 1 or is_split:
            return None
        row = Dimension(rows[0].name, Shape(rows).size)
        merged = reshape(x, [*batch, row, *inner])
        product = tf.matmul(merged.value, y.value)
        return reshape(lay_out(x, product, [*batch, row, *columns]), shape)
    r, i, c = (Shape(dims).size for dims in (rows, inner, columns))
    # The batch stays as it is: XLA would copy a cache that was just written for a reshape of it.
    b = [dim.size for dim in batch]
    product = tf.matmul(tf.reshape(x.value, [*b, r, i]), tf.reshape(y.value, [*b, i, c]))
    return Tensor(x.mesh, tf.reshape(product, shape.to_integer_list), shape)
