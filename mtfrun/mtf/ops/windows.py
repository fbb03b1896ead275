"""Shortening a dimension by a whole factor, and shifting along one."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.errors import ShapeError
from mtfrun.mtf.ops.gathering import gather
from mtfrun.mtf.ops.indexing import range as index_range
from mtfrun.mtf.ops.joining import reduce_first
from mtfrun.mtf.ops.reductions import reduce_mean
from mtfrun.mtf.ops.structure import rename_dimension, replace_dimensions
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


def pool_tensor_1d(
    tensor: TensorLike,
    pool_dim: DimensionLike,
    reduce_fn: Callable[..., Tensor] = reduce_mean,
    pool_size: int = 2,
) -> Tensor:
    """Returns a tensor whose `pool_dim` is shorter: every `pool_size` entries are reduced to one.

    Args:
      tensor: {..., pool_dim, ...}.
      pool_dim: a dimension whose size `pool_size` divides; the result's has the same name.
      reduce_fn: takes a tensor and `reduced_dim`, such as `mtf.reduce_max`.
      pool_size: how many neighbours make one entry.
    """
    x = as_tensor(tensor)
    dim = convert_to_dimension(pool_dim)
    x.shape.index(dim)
    if dim.size % pool_size:
        raise ShapeError(
            f"windows of {pool_size} do not divide {dim.name}:{dim.size}: cut it with mtf.slice"
        )
    shorter = Dimension(dim.name, dim.size // pool_size)
    window = Dimension(f"_{dim.name}_window", pool_size)
    return reduce_fn(replace_dimensions(x, dim, [shorter, window]), reduced_dim=window)


def stride_tensor_1d(tensor: TensorLike, pool_dim: DimensionLike, pool_size: int = 2) -> Tensor:
    """Returns every `pool_size`-th entry along a dimension, beginning with the first."""
    return pool_tensor_1d(tensor, pool_dim, reduce_first, pool_size)


def dynamic_shift(x: TensorLike, offset: TensorLike, dim: DimensionLike, wrap: bool) -> Tensor:
    """Returns x moved along a dimension by an amount that is a tensor.

    Args:
      x: {..., dim, ...}.
      offset: integers, any of x's other dimensions; positive moves to higher indices.
      dim: the dimension; gathered where it is split.
      wrap: what leaves at one end enters at the other; otherwise zeros do.
    """
    x, offset = as_tensor(x), as_tensor(offset)
    dim = convert_to_dimension(dim)
    x.shape.index(dim)
    for other in offset.shape:
        x.shape.index(other)
    source_dim = Dimension(f"_{dim.name}_source", dim.size)
    source = index_range(x.mesh, dim, offset.dtype) - offset
    if wrap:
        source = source % dim.size
    return gather(rename_dimension(x, dim.name, source_dim.name), source, source_dim, x.shape)
