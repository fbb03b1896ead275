"""Transposed convolutions: the gradients of convolutions with respect to their inputs.

Between two entries of x the result has as many entries as the stride, and each of them another part
of the filter: they are the channels of one convolution with stride 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtfrun.errors import ShapeError
from mtfrun.mtf.flops import add_product, count_flops
from mtfrun.mtf.ops.joining import pad
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.spatial.convolution import check_filter, convolve
from mtfrun.mtf.ops.spatial.windows import Blocks, Window, spatial_dims, spatial_strides
from mtfrun.mtf.ops.structure import replace_dimensions, transpose
from mtfrun.mtf.placement import engine
from mtfrun.mtf.porting import convert_to_dimension
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape
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
    """Returns `conv2d_transpose` of blocks; with "VALID" only where they do not overlap."""
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
    x, filter, n = as_tensor(x), as_tensor(filter), len(blocks)
    check_filter(x, filter, n, channels_at=-1)
    spatial, strides = spatial_dims(x, n, padding), spatial_strides(strides, n)
    *places, out, channels = filter.shape.dims
    # Every entry of x is multiplied with the filter of its channel.
    add_product(2 * x.shape.size * filter.shape.size // channels.size, x.dtype)
    windows, lengths, groups, phases = [], [], [], []
    block_dims = [convert_to_dimension(block) for block in blocks]
    sides = zip(spatial, block_dims, places, strides, strict=True)
    for i, (dim, block, place, stride) in enumerate(sides):
        overlap = max(0, place.size - stride)
        if padding == "VALID" and overlap and block is not None and block.size > 1:
            raise ShapeError(f"VALID windows of {place.size} overlap {block}: use SAME")
        cropped = overlap // 2 if padding == "SAME" else 0
        # With zeros before it, the filter is cropped by whole strides.
        zeros = -cropped % stride
        number = -(-(place.size + zeros) // stride)
        skipped = (cropped + zeros) // stride
        after = skipped if padding == "SAME" else number - 1
        windows.append(Window(number, before=number - 1 - skipped, after=after))
        lengths.append(dim.size * stride + (overlap if padding == "VALID" else 0))
        groups.append(Dimension(place.name, number))
        phases.append(Dimension(f"_phase_{i}", stride))
        rest = number * stride - place.size - zeros
        filter = pad(filter, [zeros, rest], place.name)
        filter = replace_dimensions(filter, filter.shape[2 * i], [groups[i], phases[i]])
    filter = transpose(filter, [*groups, channels, out, *phases])
    mirrored = filter.value
    for axis in range(n):
        mirrored = engine.reverse(mirrored, axis)
    wide = Dimension(out.name, out.size * Shape(phases).size)
    kernel = lay_out(filter, mirrored, filter.shape)
    with count_flops(None):
        y = convolve(x, replace_dimensions(kernel, [out, *phases], wide), blocks, windows)
    y = replace_dimensions(y, wide, [out, *phases])
    pairs = list(zip(y.shape.dims[-2 * n - 1 : -n - 1], phases, strict=True))
    y = transpose(y, [*y.shape.dims[: -2 * n - 1], *(dim for pair in pairs for dim in pair), out])
    for (dim, phase), length in zip(pairs, lengths, strict=True):
        y = replace_dimensions(y, [dim, phase], Dimension(dim.name, dim.size * phase.size))
        y = slice_along(y, 0, length, dim.name)
    return y
