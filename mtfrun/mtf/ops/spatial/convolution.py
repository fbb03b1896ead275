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

from collections.abc import Sequence

import tensorflow as tf

from mtfrun.errors import LayoutError, ShapeError
from mtfrun.mtf.flops import add_product, count_flops
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.contraction import einsum
from mtfrun.mtf.ops.spatial.windows import (
    Blocks,
    Window,
    are_same,
    can_be_fused,
    drop_skipped_entries,
    over_blocks,
    over_merged_batch,
    pad_windows,
    spatial_strides,
    taps,
    windows_over,
)
from mtfrun.mtf.ops.structure import rename_dimension, replace_dimensions, reshape
from mtfrun.mtf.placement import engine
from mtfrun.mtf.shape import Dimension, DimensionLike
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


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
    x, filter, n = as_tensor(x), as_tensor(filter), len(blocks)
    check_filter(x, filter, n, channels_at=-2)
    sizes = filter.shape.to_integer_list[:n]
    windows = windows_over(x, blocks, sizes, spatial_strides(strides, n), padding)
    return convolve(x, filter, blocks, windows)


def convolve(x: Tensor, filter: Tensor, blocks: Blocks, windows: Sequence[Window]) -> Tensor:
    """Returns the convolution of x with a filter {*spatial, channels, out} at these windows."""
    n, out = len(windows), filter.shape[-1]

    def fused(x: Tensor, windows: Sequence[Window]) -> tf.Tensor:
        value, padding = x.value, "SAME"
        # The kernel's padding where it serves: explicit paddings are 1.4 to 2.3 times slower on
        # CPU, tf.pad with VALID 5 to 13 %.
        if not are_same(value, windows):
            value, padding = pad_windows(value, windows), "VALID"
        value, windows = drop_skipped_entries(value, windows)
        strides = [1, *(window.stride for window in windows), 1]
        kernel = {2: tf.nn.conv2d, 3: tf.nn.conv3d}[n]
        result = kernel(value, filter.value, strides, padding)
        # Every result is a sum over the filter's places and the channels.
        add_product(2 * result.shape.num_elements() * filter.shape.size // out.size, x.dtype)
        return result

    def composed(x: Tensor, windows: Sequence[Window]) -> tf.Tensor:
        return _contract_patches(x, filter, windows)

    def on_block(x: Tensor, windows: Sequence[Window]) -> Tensor:
        form = fused if can_be_fused(x, n, *filter.shape.dims[-2:]) else composed
        return over_merged_batch(lambda x: form(x, windows), x, n, out)

    return over_blocks(x, blocks, windows, on_block)


def _contract_patches(x: Tensor, filter: Tensor, windows: Sequence[Window]) -> tf.Tensor:
    """Returns a convolution's value, for any layout: the filter contracted with patches of x."""
    *places, channels, out = filter.shape.dims
    value = engine.stack(list(taps(pad_windows(x.value, windows), windows)), x.shape.ndims - 1)
    taps_dim = Dimension("_taps", value.shape[-2])
    names = x.shape.dimension_names[:-1]
    outer = [Dimension(*pair) for pair in zip(names, value.shape[:-2], strict=True)]
    patches = Tensor(x.mesh, value, [*outer, taps_dim, channels])
    kernel = replace_dimensions(filter, places, taps_dim)
    num_splits = x.mesh.num_splits(out)
    can_split_channels = x.mesh.num_splits(channels) == 1 and channels.size % num_splits == 0
    if num_splits == 1 or not can_split_channels:
        return einsum([patches, kernel], [*outer, out]).value

    def gradients(
        inputs: Sequence[Tensor], _: Sequence[Tensor], grads: Sequence[Tensor]
    ) -> list[Tensor]:
        # DTensor would all-reduce the gradient of all patches, `taps` times too much. Instead the
        # result's gradient is gathered and the filter split by its channels, of which a device has
        # a part: with the name of `out` they are laid out by its rule.
        whole, part = Dimension("_out", out.size), Dimension(out.name, channels.size)
        by_channels = reshape(inputs[1], [taps_dim, part, whole])
        with count_flops(None):
            gradient = rename_dimension(grads[0], out.name, whole.name)
            grad_patches = einsum([gradient, by_channels], [*outer, taps_dim, part])
            grad_kernel = einsum([inputs[0], grads[0]], inputs[1].shape)
        return [Tensor(x.mesh, grad_patches.value, inputs[0].shape), grad_kernel]

    def product(patches: Tensor, kernel: Tensor) -> Tensor:
        return einsum([patches, kernel], [*outer, out])

    return custom_gradient(product, gradients, [patches, kernel]).value
