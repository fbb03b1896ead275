"""Convolutions over named spatial dimensions, of whole images or of images in blocks.

Fused, by TensorFlow's kernel: on one device, and where at most one of the leading dimensions
(batch, blocks) is split. Composed, as one contraction of the filter with the patches that it
covers: where two leading dimensions or the channels are split, which the kernel does not support
under DTensor. On CPU this takes 0.8 to 3.4 times as long per product, and the patches take `filter
size` times the memory of x. Split input channels are summed over by an all-reduce of the result;
split output channels gather the result's gradient.

Blocks exchange their edges first, see `mtf.halo_exchange`. A spatial dimension that is split itself
is treated as blocks, one on each device.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun.errors import LayoutError, ShapeError
from mtfrun.mtf.flops import add_product
from mtfrun.mtf.ops.spatial.windows import (
    Blocks,
    Window,
    can_be_fused,
    drop_skipped_entries,
    merged_names,
    over_blocks,
    over_merged_batch,
    pad_value,
    resize,
    same_window,
    spatial_strides,
    taps,
)
from mtfrun.mtf.ops.structure import reshape
from mtfrun.mtf.placement import engine
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out


def conv1d(x: TensorLike, filter: TensorLike, stride: int = 1, padding: str = "SAME") -> Tensor:
    """Returns the convolution of x {..., length, channels} with filter {size, channels, out}."""
    x, filter = as_tensor(x), as_tensor(filter)
    height, filter_height = Dimension("_height", 1), Dimension("_filter_height", 1)
    *batch, length, channels = x.shape.dims
    y = conv2d(
        reshape(x, [*batch, height, length, channels]),
        reshape(filter, [filter_height, *filter.shape]),
        (1, stride),
        padding,
    )
    return reshape(y, y.shape - height)


def conv2d(
    x: TensorLike, filter: TensorLike, strides: Sequence[int] = (1, 1), padding: str = "SAME"
) -> Tensor:
    """Returns the convolution (cross-correlation) of x with a filter, as `tf.nn.conv2d` does.

    x: {..., height, width, channels}; filter: {filter_height, filter_width, channels, out}; the
    result: {..., height, width, out}. Strides are for height and width, or Mesh TensorFlow's [1,
    height, width, 1]. "SAME" adds zeros so that there are ceil(size / stride) results.
    """
    return _convolution(x, filter, strides, padding, [None, None])


def conv2d_with_blocks(
    x: TensorLike,
    filter: TensorLike,
    strides: Sequence[int] = (1, 1),
    padding: str = "SAME",
    h_blocks_dim: DimensionLike | None = None,
    w_blocks_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns the convolution of an image in blocks, which does not depend on the blocks.

    x: {..., height, width, channels}, with the dimensions that count blocks of rows and columns
    among the leading dimensions; if of size 1 they may be absent and only select the padding. With
    either, "SAME" begins half a filter, rounded down, before the image: TensorFlow's only for
    stride 1 and odd filters. "VALID" is always TensorFlow's. The blocks must be able to share the
    results equally; with "SAME" they can where the stride divides their size.
    """
    return _convolution(x, filter, strides, padding, [h_blocks_dim, w_blocks_dim])


def conv3d(
    x: TensorLike, filter: TensorLike, strides: Sequence[int] = (1, 1, 1), padding: str = "SAME"
) -> Tensor:
    """Returns the convolution of x {..., depth, height, width, channels}; see `conv2d`."""
    return _convolution(x, filter, strides, padding, [None, None, None])


def conv3d_with_blocks(
    x: TensorLike,
    filter: TensorLike,
    strides: Sequence[int] = (1, 1, 1),
    padding: str = "SAME",
    d_blocks_dim: DimensionLike | None = None,
    h_blocks_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns the convolution in blocks of depth and of height; see `conv2d_with_blocks`."""
    return _convolution(x, filter, strides, padding, [d_blocks_dim, h_blocks_dim, None])


def check_filter(x: Tensor, filter: Tensor, num_spatial: int, channels_at: int) -> None:
    """Raises unless the filter fits x: its dimension at `channels_at` is x's last."""
    if filter.shape.ndims != num_spatial + 2:
        raise ShapeError(
            f"filter {filter.shape} must have {num_spatial} spatial dimensions and two of channels"
        )
    channels = x.shape.dims[-1]
    taken = filter.shape[channels_at]
    if taken != channels:
        raise ShapeError(
            f"x {x.shape} has the channels {channels}, but the filter "
            f"{filter.shape} takes {taken}: rename one (mtf.rename_dimension)"
        )
    for dim in filter.shape.dims[:num_spatial]:
        if filter.mesh.num_splits(dim) > 1:
            raise LayoutError(f"filters are split by channels only: drop the rule of {dim.name}")


def _convolution(
    x: TensorLike, filter: TensorLike, strides: Sequence[int], padding: str, blocks: Blocks
) -> Tensor:
    x, filter = as_tensor(x), as_tensor(filter)
    n = len(blocks)
    check_filter(x, filter, n, channels_at=-2)
    channels, out = filter.shape.dims[-2:]

    def convolve(x: Tensor, windows: Sequence[Window]) -> Tensor:
        is_fused = can_be_fused(x, x.shape.ndims - n - 1, channels, out)
        value = (_fused_convolution if is_fused else convolve_patches)(x, filter, windows)
        y = lay_out(x, value, resize(x.shape, value, out))
        # Every result is a sum over the filter's places and the channels.
        add_product(2 * y.shape.size * filter.shape.size // out.size, x.dtype)
        return y

    sizes = filter.shape.to_integer_list[:n]
    return over_blocks(x, blocks, sizes, spatial_strides(strides, n), padding, convolve)


def _fused_convolution(x: Tensor, filter: Tensor, windows: Sequence[Window]) -> tf.Tensor:
    n = len(windows)
    num_leading = x.shape.ndims - n - 1
    axes = range(num_leading, num_leading + n)
    lengths = x.shape.to_integer_list[num_leading:-1]
    if all(w == same_window(s, w.size, w.stride) for s, w in zip(lengths, windows, strict=True)):
        # The kernel's padding: explicit paddings are 1.4 to 2.3 times slower on CPU, tf.pad
        # with VALID 5 to 13 %.
        value, padding = x.value, "SAME"
    else:
        value, padding = pad_value(x, axes, windows), "VALID"
    value, windows = drop_skipped_entries(value, axes, windows)
    convolve = {2: tf.nn.conv2d, 3: tf.nn.conv3d}[n]
    strides = [1, *(window.stride for window in windows), 1]
    return over_merged_batch(
        lambda merged: convolve(merged, filter.value, strides, padding), x, value, num_leading
    )


def convolve_patches(x: Tensor, filter: Tensor, windows: Sequence[Window]) -> tf.Tensor:
    """Returns a convolution's value, for any layout: the filter contracted with patches of x."""
    channels, out = filter.shape.dims[-2:]
    n = len(windows)
    num_leading = x.shape.ndims - n - 1
    num_taps = math.prod(window.size for window in windows)
    kernel = tf.reshape(filter.value, [num_taps, channels.size, out.size])
    num_splits = x.mesh.num_splits(out)
    by_channels = (
        num_splits > 1 and x.mesh.num_splits(channels) == 1 and channels.size % num_splits == 0
    )
    leading = merged_names(x, num_leading)

    def contract(value: tf.Tensor) -> tf.Tensor:
        last = value.shape.rank - 1
        stacked = engine.stack(list(taps(value, range(last - n, last), windows)), last)
        if by_channels:
            return _product_of_patches(x.mesh, leading, stacked, kernel, out.name)
        outer = string.ascii_uppercase[:last]
        return tf.einsum(f"{outer}tc,tco->{outer}o", stacked, kernel)

    value = pad_value(x, range(num_leading, num_leading + n), windows)
    return over_merged_batch(contract, x, value, num_leading)


def _product_of_patches(
    mesh: Mesh, leading: Sequence[str], patches: tf.Tensor, kernel: tf.Tensor, out_name: str
) -> tf.Tensor:
    """Returns patches {*leading, *places, taps, channels} times {taps, channels, out}, out split.

    DTensor would all-reduce the gradient of all patches, `taps` times too much. Instead the
    result's gradient is gathered and the filter split by its channels, of which a device has a
    part.
    """
    *sizes, num_taps, channels = patches.shape.as_list()
    names = [*leading, *(f"_place_{i}" for i in range(len(sizes) - len(leading)))]
    outer = string.ascii_uppercase[: len(sizes)]
    outer_dims = list(zip(names, sizes, strict=True))
    taps_dim, whole_out = ("_taps", num_taps), ("_out", kernel.shape[-1])
    # The channels are split over the axis of `out`: with its name they are laid out by its rule.
    part = (out_name, channels)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(
        patches: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            whole = mesh.constrain(gradient, Shape([*outer_dims, whole_out]))
            by_channels = mesh.constrain(kernel, Shape([taps_dim, part, whole_out]))
            grad_patches = tf.einsum(f"{outer}o,tco->{outer}tc", whole, by_channels)
            grad_kernel = tf.einsum(f"{outer}tc,{outer}o->tco", patches, gradient)
            return mesh.constrain(grad_patches, Shape([*outer_dims, taps_dim, part])), grad_kernel

        return tf.einsum(f"{outer}tc,tco->{outer}o", patches, kernel), backward

    return product(patches, kernel)
