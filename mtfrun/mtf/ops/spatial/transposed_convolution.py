"""Transposed convolutions: the gradients of convolutions with respect to their inputs.

Fused or composed as convolutions are, see `convolution.py`. The composed form convolves x, with
zeros between its entries, with the mirrored filter: product(strides) times the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.flops import add_product
from mtfrun.mtf.ops.spatial.convolution import check_filter, convolve_patches
from mtfrun.mtf.ops.spatial.halo import add_margins
from mtfrun.mtf.ops.spatial.windows import (
    Blocks,
    Window,
    can_be_fused,
    over_merged_batch,
    resize,
    spatial_strides,
    split_spatial_again,
    split_spatial_as_blocks,
)
from mtfrun.mtf.ops.structure import transpose
from mtfrun.mtf.placement import engine
from mtfrun.mtf.shape import DimensionLike, Shape, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out


def conv2d_transpose(
    x: TensorLike, filter: TensorLike, strides: Sequence[int] = (2, 2), padding: str = "SAME"
) -> Tensor:
    """Returns the transposed convolution of x with a filter, as `tf.nn.conv2d_transpose` does.

    x: {..., height, width, channels}; filter: {filter_height, filter_width, out, channels}; the
    result: {..., height, width, out}. "SAME" has size `size * stride`, "VALID" all nonzero results.
    """
    return _transpose(x, filter, strides, padding, [None, None])


def conv2d_transpose_with_blocks(
    x: TensorLike,
    filter: TensorLike,
    strides: Sequence[int] = (2, 2),
    padding: str = "SAME",
    h_blocks_dim: DimensionLike | None = None,
    w_blocks_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns `conv2d_transpose` of blocks; "VALID" only where the size is `size * stride`."""
    return _transpose(x, filter, strides, padding, [h_blocks_dim, w_blocks_dim])


def conv3d_transpose(
    x: TensorLike, filter: TensorLike, strides: Sequence[int] = (2, 2, 2), padding: str = "SAME"
) -> Tensor:
    """Returns the transposed convolution of x {..., depth, height, width, channels}."""
    return _transpose(x, filter, strides, padding, [None, None, None])


def conv3d_transpose_with_blocks(
    x: TensorLike,
    filter: TensorLike,
    strides: Sequence[int] = (2, 2, 2),
    padding: str = "SAME",
    d_blocks_dim: DimensionLike | None = None,
    h_blocks_dim: DimensionLike | None = None,
) -> Tensor:
    """Returns `conv3d_transpose` of a volume in blocks along depth and height."""
    return _transpose(x, filter, strides, padding, [d_blocks_dim, h_blocks_dim, None])


def _transpose(
    x: TensorLike, filter: TensorLike, strides: Sequence[int], padding: str, blocks: Blocks
) -> Tensor:
    x, filter = as_tensor(x), as_tensor(filter)
    n = len(blocks)
    check_filter(x, filter, n, channels_at=-1)
    if padding not in ("SAME", "VALID"):
        raise ShapeError(f"padding must be 'SAME' or 'VALID', got {padding!r}")
    if x.shape.ndims <= n:
        raise ShapeError(f"x {x.shape} needs {n} spatial dimensions and channels")
    spatial = x.shape.dims[-n - 1 : -1]
    out = filter.shape[-2]
    strides = spatial_strides(strides, n)
    # Every entry of x is multiplied with the filter of its channel.
    add_product(2 * x.shape.size * filter.shape.size // filter.shape[-1].size, x.dtype)
    wide, parts, part_blocks = split_spatial_as_blocks(x, spatial, blocks)
    value_shape, cuts = [], []
    for dim, block, size, stride in zip(
        parts, part_blocks, filter.shape.to_integer_list[:n], strides, strict=True
    ):
        # Entry i of x reaches i * stride - cropped ... i * stride - cropped + size - 1.
        cropped = max(0, size - stride) // 2 if padding == "SAME" else 0
        length = dim.size * stride + (max(0, size - stride) if padding == "VALID" else 0)
        before = after = 0
        if block is not None and convert_to_dimension(block).size > 1:
            if length != dim.size * stride:
                raise ShapeError(f"VALID windows of {size} overlap blocks of {dim.name}: use SAME")
            before, after = max(0, size - 1 - cropped) // stride, -(-cropped // stride)
            wide = add_margins(wide, block, dim, before, after)
        value_shape.append(length)
        cuts.append(before * stride + cropped)
    windows = [Window(s, t) for s, t in zip(filter.shape.to_integer_list[:n], strides, strict=True)]
    num_leading = wide.shape.ndims - n - 1
    lengths = [
        dim.size * window.stride + max(0, window.size - window.stride)
        for dim, window in zip(wide.shape.dims[num_leading:-1], windows, strict=True)
    ]
    is_fused = can_be_fused(wide, num_leading, *filter.shape.dims[-2:])
    form = _fused_transpose if is_fused else _composed_transpose
    value = form(wide, filter, windows, lengths)
    begin = [0] * num_leading + cuts + [0]
    sizes = value.shape.as_list()
    sizes[-n - 1 : -1] = value_shape
    value = tf.slice(value, begin, sizes)
    y = lay_out(x, value, resize(wide.shape, value, out))
    return split_spatial_again(y, spatial)


def _fused_transpose(
    x: Tensor, filter: Tensor, windows: Sequence[Window], lengths: Sequence[int]
) -> tf.Tensor:
    kernel = {2: tf.nn.conv2d_transpose, 3: tf.nn.conv3d_transpose}[len(windows)]
    num_leading = x.shape.ndims - len(windows) - 1
    out = filter.shape[-2]
    # A filter of size 1 fills every `stride`-th entry of the result: the kernel does not get such
    # strides, as in `drop_skipped_entries`.
    alone = [window.size == 1 for window in windows]
    strides = [1 if one else w.stride for one, w in zip(alone, windows, strict=True)]
    sizes = [
        dim.size if one else length
        for one, dim, length in zip(alone, x.shape.dims[num_leading:-1], lengths, strict=True)
    ]

    def transpose_merged(value: tf.Tensor) -> tf.Tensor:
        output_shape = [value.shape[0], *sizes, out.size]
        return kernel(value, filter.value, output_shape, [1, *strides, 1], "VALID")

    value = over_merged_batch(transpose_merged, x, x.value, num_leading)
    for axis, (one, window) in enumerate(zip(alone, windows, strict=True), start=num_leading):
        if one:
            value = _insert_zeros(value, axis, window.stride)
    return value


def _insert_zeros(value: tf.Tensor, axis: int, stride: int) -> tf.Tensor:
    if stride == 1:
        return value
    sizes = value.shape.as_list()
    paddings = [[0, 0]] * (value.shape.rank + 1)
    paddings[axis + 1] = [0, stride - 1]
    value = tf.pad(tf.expand_dims(value, axis + 1), paddings)
    return tf.reshape(value, [*sizes[:axis], sizes[axis] * stride, *sizes[axis + 1 :]])


def _composed_transpose(
    x: Tensor, filter: Tensor, windows: Sequence[Window], lengths: Sequence[int]
) -> tf.Tensor:
    num_leading = x.shape.ndims - len(windows) - 1
    value = x.value
    for axis, (window, length) in enumerate(zip(windows, lengths, strict=True), start=num_leading):
        value = _insert_zeros(value, axis, window.stride)
        before = window.size - 1
        paddings = [[0, 0]] * value.shape.rank
        paddings[axis] = [before, max(0, length - value.shape[axis])]
        value = tf.pad(value, paddings)
    out, channels = filter.shape.dims[-2:]
    with_zeros = Tensor(x.mesh, value, resize(x.shape, value, channels))
    mirrored = filter.value
    for axis in range(len(windows)):
        mirrored = engine.reverse(mirrored, axis)
    laid_out = lay_out(filter, mirrored, filter.shape)
    kernel = transpose(laid_out, Shape([*filter.shape.dims[:-2], channels, out]))
    dense_windows = [Window(window.size, 1) for window in windows]
    return convolve_patches(with_zeros, kernel, dense_windows)
