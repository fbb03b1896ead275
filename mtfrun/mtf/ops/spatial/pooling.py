"""Pooling: the maximum or mean of every window over spatial dimensions.

Maxima are fused, by TensorFlow's kernel, where at most one leading dimension is split over devices,
otherwise composed of maxima of strided slices (ten times slower on CPU); the gradient of ties in a
window goes to the first entry. Means are a reshape and a mean. Channels may always be split.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.ops.joining import reduce_first
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.reductions import reduce_mean
from mtfrun.mtf.ops.spatial.windows import (
    Blocks,
    Window,
    can_be_fused,
    drop_skipped_entries,
    over_blocks,
    over_merged_batch,
    pad_windows,
    spatial_dims,
    spatial_strides,
    taps,
    windows_over,
)
from mtfrun.mtf.ops.structure import replace_dimensions
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


@accept_name
def max_pool2d(x: TensorLike, ksize: Sequence[int] = (2, 2)) -> Tensor:
    """Returns maxima of complete windows of x {..., height, width, channels}."""
    return _max_pool(x, ksize, ksize, "VALID", [None, None])


def max_pool2d_with_blocks(
    x: TensorLike,
    ksize: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    h_blocks_dim: DimensionLike | None = None,
    w_blocks_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns `max_pool2d` of an image in blocks, also with overlapping windows.

    Strides default to `ksize`; padding, never the maximum, and blocks as in `conv2d_with_blocks`.
    """
    return _max_pool(x, ksize, strides or ksize, padding, [h_blocks_dim, w_blocks_dim])


@accept_name
def max_pool3d(x: TensorLike, ksize: Sequence[int] = (2, 2, 2)) -> Tensor:
    """Returns the largest entry of every window of x {..., depth, height, width, channels}."""
    return _max_pool(x, ksize, ksize, "VALID", [None, None, None])


@accept_name
def avg_pool2d(x: TensorLike, ksize: Sequence[int] = (2, 2)) -> Tensor:
    """Returns the mean of every window of x {..., height, width, channels}; see `max_pool2d`."""
    return _avg_pool(x, ksize, 2)


@accept_name
def avg_pool3d(x: TensorLike, ksize: Sequence[int] = (2, 2, 2)) -> Tensor:
    """Returns the mean of every window of x {..., depth, height, width, channels}."""
    return _avg_pool(x, ksize, 3)


def pool_tensor_1d(
    tensor: TensorLike,
    pool_dim: DimensionLike,
    reduce_fn: Callable[..., Tensor] = reduce_mean,
    pool_size: int = 2,
) -> Tensor:
    """Returns reduce_fn(x, reduced_dim=...) of every `pool_size` entries along `pool_dim`."""
    x = as_tensor(tensor)
    dim = convert_to_dimension(pool_dim)
    x.shape.index(dim)
    if dim.size % pool_size:
        raise ShapeError(f"windows of {pool_size} do not divide {dim}: cut it with mtf.slice")
    shorter = Dimension(dim.name, dim.size // pool_size)
    window = Dimension(f"_{dim.name}_window", pool_size)
    return reduce_fn(replace_dimensions(x, dim, [shorter, window]), reduced_dim=window)


def stride_tensor_1d(tensor: TensorLike, pool_dim: DimensionLike, pool_size: int = 2) -> Tensor:
    """Returns every `pool_size`-th entry along a dimension, starting with the first."""
    return pool_tensor_1d(tensor, pool_dim, reduce_first, pool_size)


def _max_pool(
    x: TensorLike, ksize: Sequence[int], strides: Sequence[int], padding: str, blocks: Blocks
) -> Tensor:
    x, n = as_tensor(x), len(blocks)
    lowest, channels = float(x.dtype.min), x.shape[-1]
    kernel = {2: tf.nn.max_pool2d, 3: tf.nn.max_pool3d}[n]

    def on_block(x: Tensor, windows: Sequence[Window]) -> Tensor:
        is_fused = can_be_fused(x, n, channels)

        def pool(x: Tensor) -> tf.Tensor:
            value = pad_windows(x.value, windows, lowest)
            value, dense = drop_skipped_entries(value, windows)
            if is_fused:
                return kernel(value, [w.size for w in dense], [w.stride for w in dense], "VALID")
            # tf.maximum gives the gradient of a tie to its first operand.
            return functools.reduce(tf.maximum, taps(value, dense))

        return over_merged_batch(pool, x, n, channels)

    ksize, strides = spatial_strides(ksize, n), spatial_strides(strides, n)
    windows = windows_over(x, blocks, ksize, strides, padding)
    return over_blocks(x, blocks, windows, on_block, fill=lowest)


def _avg_pool(x: TensorLike, ksize: Sequence[int], n: int) -> Tensor:
    x = as_tensor(x)
    for dim, size in zip(spatial_dims(x, n), spatial_strides(ksize, n), strict=True):
        covered = Dimension(dim.name, dim.size // size * size)
        x = pool_tensor_1d(slice_along(x, 0, covered.size, dim.name), covered, reduce_mean, size)
    return x
