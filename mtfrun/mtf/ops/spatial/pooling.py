"""Pooling: the maximum or mean of every window over spatial dimensions.

Fused, by TensorFlow's kernels, on one device. Under DTensor max pooling is fused where at most one
leading dimension is split, otherwise composed of maxima of strided slices (ten times slower on
CPU). Average pooling is a reshape and a mean, since DTensor lacks its fused gradient. Channels may
always be split. The gradient of ties in a window goes to the first entry.
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
    pad_value,
    resize,
    spatial_strides,
    taps,
)
from mtfrun.mtf.ops.structure import replace_dimensions
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out


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
    return _avg_pool(x, spatial_strides(ksize, 2))


@accept_name
def avg_pool3d(x: TensorLike, ksize: Sequence[int] = (2, 2, 2)) -> Tensor:
    """Returns the mean of every window of x {..., depth, height, width, channels}."""
    return _avg_pool(x, spatial_strides(ksize, 3))


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

    def pool(x: Tensor, windows: Sequence[Window]) -> Tensor:
        num_leading = x.shape.ndims - n - 1
        axes = range(num_leading, num_leading + n)
        value = pad_value(x, axes, windows, fill=lowest)
        value, windows = drop_skipped_entries(value, axes, windows)
        is_fused = can_be_fused(x, num_leading, channels)
        form = functools.partial(_fused_max_pool if is_fused else _composed_max_pool, windows)
        value = over_merged_batch(form, x, value, num_leading)
        return lay_out(x, value, resize(x.shape, value, channels))

    ksize, strides = spatial_strides(ksize, n), spatial_strides(strides, n)
    return over_blocks(x, blocks, ksize, strides, padding, pool, fill=lowest)


def _fused_max_pool(windows: Sequence[Window], value: tf.Tensor) -> tf.Tensor:
    pool = {2: tf.nn.max_pool2d, 3: tf.nn.max_pool3d}[len(windows)]
    return pool(value, [w.size for w in windows], [w.stride for w in windows], "VALID")


def _composed_max_pool(windows: Sequence[Window], value: tf.Tensor) -> tf.Tensor:
    last = value.shape.rank - 1
    # tf.maximum gives the gradient of a tie to its first operand.
    return functools.reduce(tf.maximum, taps(value, range(last - len(windows), last), windows))


def _avg_pool(x: TensorLike, ksize: Sequence[int]) -> Tensor:
    x, n = as_tensor(x), len(ksize)
    pool = {2: tf.nn.avg_pool2d, 3: tf.nn.avg_pool3d}[n]

    def average(x: Tensor, _: Sequence[Window]) -> Tensor:
        num_leading = x.shape.ndims - n - 1
        if x.mesh.is_distributed:
            for dim, size in zip(x.shape.dims[num_leading:-1], ksize, strict=True):
                covered = Dimension(dim.name, dim.size // size * size)
                x = slice_along(x, 0, covered.size, dim.name)
                x = pool_tensor_1d(x, covered, reduce_mean, size)
            return x
        value = over_merged_batch(
            lambda merged: pool(merged, ksize, ksize, "VALID"), x, x.value, num_leading
        )
        return lay_out(x, value, resize(x.shape, value, x.shape[-1]))

    return over_blocks(x, [None] * n, ksize, ksize, "VALID", average)
