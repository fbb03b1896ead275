"""Depthwise convolutions: every channel has a separate filter.

TensorFlow's kernel computes them where at most one of the leading dimensions (batch, blocks) is
split over devices; where two of them or the channels are, shifted products do, which takes about 20
to 40 times as long on a CPU. DTensor has no rule for the kernel's gradients: on a mesh the input's
gradient is the convolution with the reversed filter, and the filter's is a sum of shifted products.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun.errors import LayoutError, ShapeError
from mtfrun.mtf.flops import add_product
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.spatial.halo import add_margins
from mtfrun.mtf.ops.spatial.windows import (
    Window,
    can_be_fused,
    over_blocks,
    over_merged_batch,
    same_window,
    split_spatial_again,
    split_spatial_as_blocks,
    taps,
)
from mtfrun.mtf.ops.structure import reshape, transpose
from mtfrun.mtf.placement import engine
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out


def depthwise_conv1d(
    x: TensorLike, filter: TensorLike, length_dim: DimensionLike, min_relative_pos: int
) -> Tensor:
    """Returns the sum over i of filter[i] * x[l + min_relative_pos + i] for every position l.

    x: {..., length, channels}, padded with zeros; filter: {size, channels}; `min_relative_pos = 1 -
    size` is causal. A split length exchanges halos.
    """
    x, filter = as_tensor(x), as_tensor(filter)
    length = convert_to_dimension(length_dim)
    if x.shape.dims[-2:-1] != [length] or filter.shape.dims[1:] != x.shape.dims[-1:]:
        expected = f"x {{..., {length}, channels}} and a filter {{size, channels}}"
        raise ShapeError(f"depthwise_conv1d needs {expected}, not {x.shape} and {filter.shape}")
    size = filter.shape[0].size
    before, after = max(0, -min_relative_pos), max(0, min_relative_pos + size - 1)
    split, (part,), (blocks,) = split_spatial_as_blocks(x, [length], [None])
    wide = add_margins(split, blocks, part, before, after)
    covered = slice_along(wide, min_relative_pos + before, part.size + size - 1, part.name)
    *leading, positions, channels = covered.shape.dims
    height = Dimension("_height", 1)
    y = _convolve(
        reshape(filter, [Dimension("_filter_height", 1), *filter.shape]),
        reshape(covered, [*leading, height, positions, channels]),
        [Window(1, 1), Window(size, 1)],
    )
    y = reshape(y, [*leading, part, channels])
    return transpose(split_spatial_again(y, [length]), x.shape)


def depthwise_conv2d(
    x: TensorLike,
    filter: TensorLike,
    padding: str = "SAME",
    h_blocks_dim: DimensionLike | None = None,
    w_blocks_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns the convolution of every channel with its filter, as `tf.nn.depthwise_conv2d` does.

    x: {..., height, width, channels}; filter: {filter_height, filter_width, channels}; the result
    has x's sizes with "SAME". For blocks see `mtf.conv2d_with_blocks`.
    """
    x, filter = as_tensor(x), as_tensor(filter)
    if x.shape.ndims < 3 or filter.shape.ndims != 3 or x.shape.dims[-1] != filter.shape.dims[-1]:
        expected = "x {..., height, width, channels} and a filter {size, size, channels}"
        raise ShapeError(f"depthwise_conv2d needs {expected}, not {x.shape} and {filter.shape}")
    for dim in filter.shape.dims[:2]:
        if filter.mesh.num_splits(dim) > 1:
            raise LayoutError(f"filters are split by channels only: drop the rule of {dim.name}")
    blocks, sizes = [h_blocks_dim, w_blocks_dim], filter.shape.to_integer_list[:2]
    convolve = functools.partial(_convolve, filter)
    return over_blocks(x, blocks, sizes, (1, 1), padding, convolve)


def _convolve(filter: Tensor, x: Tensor, windows: Sequence[Window]) -> Tensor:
    """Returns the convolution of every block alone: x {..., height, width, channels}."""
    *leading, height, width, channels = x.shape.dims
    num_leading = len(leading)
    is_fused = can_be_fused(x, num_leading, channels)
    if x.mesh.is_distributed:
        product = _with_gradients(_convolve_by_kernel if is_fused else _convolve_by_shifts, windows)
    else:
        product = functools.partial(_convolve_by_kernel, windows=windows)
    value = over_merged_batch(lambda v: product(v, filter.value), x, x.value, num_leading)
    spatial = [
        Dimension(dim.name, window.num_places(dim.size))
        for dim, window in zip((height, width), windows, strict=True)
    ]
    y = lay_out(x, value, Shape([*leading, *spatial, channels]))
    add_product(2 * y.shape.size * windows[0].size * windows[1].size, x.dtype)
    return y


def _convolve_by_kernel(x: tf.Tensor, filter: tf.Tensor, windows: Sequence[Window]) -> tf.Tensor:
    """Returns the convolution of x [batch, height, width, channels] by TensorFlow's kernel."""
    kernel = tf.expand_dims(filter, -1)
    if all(w == same_window(n, w.size, 1) for n, w in zip(x.shape[-3:-1], windows, strict=True)):
        # The kernel's padding: a quarter less time than with tf.pad on a CPU.
        return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(_pad(x, windows), kernel, [1, 1, 1, 1], "VALID")


def _convolve_by_shifts(x: tf.Tensor, filter: tf.Tensor, windows: Sequence[Window]) -> tf.Tensor:
    rank = x.shape.rank
    num_taps, channels = windows[0].size * windows[1].size, x.shape[-1]
    weights = tf.split(tf.reshape(filter, [num_taps, channels]), num_taps)
    shifted = taps(_pad(x, windows), [rank - 3, rank - 2], windows)
    products = (entries * weight for entries, weight in zip(shifted, weights, strict=True))
    return functools.reduce(operator.add, products)


def _pad(x: tf.Tensor, windows: Sequence[Window]) -> tf.Tensor:
    margins = [[window.before, window.after] for window in windows]
    if not any(before or after for before, after in margins):
        return x
    return tf.pad(x, [*[[0, 0]] * (x.shape.rank - 3), *margins, [0, 0]])


def _with_gradients(
    convolve: Callable[..., tf.Tensor], windows: Sequence[Window]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns `convolve` with gradients of which DTensor has all operations."""
    # Entry i of the input meets the filter's last place at the first result that reads it.
    mirrored = [Window(w.size, 1, w.size - 1 - w.before, w.size - 1 - w.after) for w in windows]

    def product(
        x: tf.Tensor, filter: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            reversed_filter = engine.reverse(engine.reverse(filter, 0), 1)
            grad_x = convolve(gradient, reversed_filter, windows=mirrored)
            return grad_x, _filter_gradient(x, gradient, filter.shape, windows)

        return convolve(x, filter, windows=windows), backward

    with_gradients: Callable[..., tf.Tensor] = tf.custom_gradient(product)
    return with_gradients


def _filter_gradient(
    x: tf.Tensor, gradient: tf.Tensor, shape: tf.TensorShape, windows: Sequence[Window]
) -> tf.Tensor:
    rank = x.shape.rank
    spatial = [rank - 3, rank - 2]
    entries = taps(_pad(x, windows), spatial, windows)
    # The batch is summed over last: by one all-reduce instead of one for every place of a filter.
    sums = engine.stack([tf.reduce_sum(entry * gradient, spatial) for entry in entries], 0)
    return tf.reshape(tf.reduce_sum(sums, list(range(1, rank - 2))), shape)
