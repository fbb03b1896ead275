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
from mtfrun.mtf.ops.joining import pad
from mtfrun.mtf.ops.spatial.windows import (
    Window,
    are_same,
    can_be_fused,
    over_blocks,
    over_merged_batch,
    pad_windows,
    taps,
    windows_over,
)
from mtfrun.mtf.ops.structure import reshape
from mtfrun.mtf.placement import engine
from mtfrun.mtf.shape import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


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
    # Beside position l the window has a weight of 0.
    first, last = min_relative_pos, min_relative_pos + filter.shape[0].size - 1
    filter = pad(filter, [max(0, first), max(0, -last)], filter.shape[0].name)
    window = Window(filter.shape[0].size, before=max(0, -first), after=max(0, last))
    *leading, _, channels = x.shape.dims
    wide = reshape(x, [*leading, Dimension("_height", 1), length, channels])
    filter = reshape(filter, [Dimension("_filter_height", 1), *filter.shape])
    convolve = functools.partial(_convolve, filter)
    y = over_blocks(wide, [None, None], [Window(1), window], convolve)
    return reshape(y, x.shape)


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
    windows = windows_over(x, blocks, sizes, (1, 1), padding)
    return over_blocks(x, blocks, windows, functools.partial(_convolve, filter))


def _convolve(filter: Tensor, x: Tensor, windows: Sequence[Window]) -> Tensor:
    """Returns the convolution of every block alone: x {..., height, width, channels}."""
    convolve: Callable[..., tf.Tensor] = functools.partial(_convolve_by_kernel, windows=windows)
    if x.mesh.is_distributed:
        is_fused = can_be_fused(x, 2, x.shape[-1])
        convolve = _with_gradients(
            _convolve_by_kernel if is_fused else _convolve_by_shifts, windows
        )
    y = over_merged_batch(lambda x: convolve(x.value, filter.value), x, 2, x.shape[-1])
    add_product(2 * y.shape.size * windows[0].size * windows[1].size, x.dtype)
    return y


def _convolve_by_kernel(x: tf.Tensor, filter: tf.Tensor, windows: Sequence[Window]) -> tf.Tensor:
    """Returns the convolution of x [batch, height, width, channels] by TensorFlow's kernel."""
    kernel = tf.expand_dims(filter, -1)
    if are_same(x, windows):
        # The kernel's padding: a quarter less time than with tf.pad on a CPU.
        return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(pad_windows(x, windows), kernel, [1, 1, 1, 1], "VALID")


def _convolve_by_shifts(x: tf.Tensor, filter: tf.Tensor, windows: Sequence[Window]) -> tf.Tensor:
    shifted = list(taps(pad_windows(x, windows), windows))
    weights = tf.split(tf.reshape(filter, [len(shifted), x.shape[-1]]), len(shifted))
    return functools.reduce(operator.add, map(operator.mul, shifted, weights))


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
    entries = taps(pad_windows(x, windows), windows)
    # The batch is summed over last: by one all-reduce instead of one for every place of a filter.
    sums = engine.stack([tf.reduce_sum(entry * gradient, spatial) for entry in entries], 0)
    return tf.reshape(tf.reduce_sum(sums, list(range(1, rank - 2))), shape)
