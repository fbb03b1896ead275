"""Windows that slide over spatial dimensions: their padding, their halos, their places.

Shared by convolutions and pooling.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import tensorflow as tf

from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.errors import ShapeError
from mtfrun.mtf.ops.binary import where
from mtfrun.mtf.ops.halo import with_margins
from mtfrun.mtf.ops.indexing import range as index_range
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.structure import rename_dimension
from mtfrun.mtf.tensor import Tensor

Blocks = Sequence[DimensionLike | None]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window over one dimension.

    Attributes:
      size: how many positions it covers.
      stride: from one place to the next.
      before, after: how many positions are added at the ends of the dimension.
    """

    size: int
    stride: int
    before: int = 0
    after: int = 0

    def num_places(self, length: int) -> int:
        """Returns how many places a window has in a dimension of this length."""
        return (length + self.before + self.after - self.size) // self.stride + 1


def same_window(length: int, size: int, stride: int) -> Window:
    """Returns the window of TensorFlow's "SAME": ceil(length / stride) places, more after."""
    places = -(-length // stride)
    total = max(0, (places - 1) * stride + size - length)
    return Window(size, stride, total // 2, total - total // 2)


def centred_window(size: int, stride: int) -> Window:
    """Returns the window of "SAME" with blocks: place i begins at i * stride - size // 2.

    For stride 1 and odd sizes it is TensorFlow's; otherwise it differs, because TensorFlow's depends
    on the whole length, and blocks do not know it.
    """
    return Window(size, stride, size // 2, (size - 1) // 2)


def with_halos(
    x: Tensor,
    spatial: Sequence[Dimension],
    blocks: Blocks,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: str,
    fill: float = 0.0,
) -> tuple[Tensor, list[Window]]:
    """Returns x with what its windows need from neighbouring blocks, and the windows over that.

    Spatial dimensions that are split themselves are gathered: split blocks instead.

    Args:
      x: {..., *spatial, ...}.
      spatial: the dimensions that the windows slide over.
      blocks: for every one the dimension of its blocks, or None.
      sizes, strides: of the windows.
      padding: "SAME" or "VALID". "SAME" is TensorFlow's where no dimension has blocks, otherwise
        that of `centred_window` in every dimension, which any blocking leaves the same.
      fill: what is beyond the border.

    Raises:
      ShapeError: the places of the windows cannot be divided among the blocks.
    """
    if padding not in ("SAME", "VALID"):
        raise ShapeError(f"padding must be 'SAME' or 'VALID', got {padding!r}")
    block_dims = [None if b is None else convert_to_dimension(b) for b in blocks]
    with_blocks = any(b is not None for b in block_dims)
    windows = []
    for dim, block, size, stride in zip(spatial, block_dims, sizes, strides, strict=True):
        if x.mesh.num_splits(dim) > 1:
            x = rename_dimension(x, dim.name, f"_{dim.name}")
            dim = Dimension(f"_{dim.name}", dim.size)
        if padding == "VALID":
            window = Window(size, stride)
        elif with_blocks:
            window = centred_window(size, stride)
        else:
            window = same_window(dim.size, size, stride)
        if block is not None and block.size > 1:
            x.shape.index(block)
            if padding == "SAME":
                x = _with_margins_for(x, block, dim, window, fill)
            else:
                x = _valid_in_blocks(x, block, dim, window)
            window = Window(size, stride)
        elif window.num_places(dim.size) < 1:
            raise ShapeError(f"a window of {size} is longer than {dim.name}:{dim.size}")
        windows.append(window)
    return x, windows


def _with_margins_for(
    x: Tensor, block: Dimension, dim: Dimension, window: Window, fill: float
) -> Tensor:
    if dim.size % window.stride:
        raise ShapeError(
            f"stride {window.stride} must divide the {dim.name}:{dim.size} of every block of "
            f"{block.name}, or blocks would begin between strides"
        )
    return with_margins(x, block, dim, window.before, window.after, fill=fill)


def _valid_in_blocks(x: Tensor, block: Dimension, dim: Dimension, window: Window) -> Tensor:
    """Returns for every block the positions that its equal share of all places needs.

    Without padding the places do not begin where the blocks do: the share of block j begins
    j * `lag` positions before the block.
    """
    places = window.num_places(block.size * dim.size)
    if places < 1 or places % block.size:
        raise ShapeError(
            f"VALID windows of {window.size} with stride {window.stride} have {max(places, 0)} "
            f"places in {block.name}:{block.size} of {dim.name}:{dim.size}, which {block.size} "
            "blocks cannot share equally: use SAME, or merge the blocks first"
        )
    share = places // block.size
    lag = dim.size - share * window.stride
    needed = (share - 1) * window.stride + window.size
    begins = [-j * lag for j in range(block.size)]
    before = max(0, -min(begins))
    after = max(0, max(begins) + needed - dim.size)
    wide = with_margins(x, block, dim, before, after)
    parts = [slice_along(wide, begin + before, needed, dim.name) for begin in begins]
    if lag == 0:
        return parts[0]
    # Every device computes all of the few candidates and keeps its own.
    index = index_range(x.mesh, block)
    result = parts[0]
    for j, part in enumerate(parts[1:], start=1):
        result = where(index >= j, part, result, output_shape=part.shape)
    return result


def padded_value(
    x: Tensor, axes: Sequence[int], windows: Sequence[Window], fill: float = 0.0
) -> tf.Tensor:
    """Returns x's value with what the windows over these axes add at the borders."""
    if not any(window.before or window.after for window in windows):
        return x.value
    paddings = [[0, 0]] * x.shape.ndims
    for axis, window in zip(axes, windows, strict=True):
        paddings[axis] = [window.before, window.after]
    return tf.pad(x.value, paddings, constant_values=fill)


def taps(
    value: tf.Tensor, axes: Sequence[int], windows: Sequence[Window]
) -> Iterator[tuple[tuple[int, ...], tf.Tensor]]:
    """Yields (offset, the entries at that offset of all places) for every offset in the windows.

    Args:
      value: with all padding.
      axes: the axes that the windows slide over.
      windows: over them.
    """
    sizes = value.shape.as_list()
    places = [
        (sizes[a] - window.size) // window.stride + 1
        for a, window in zip(axes, windows, strict=True)
    ]
    for offset in itertools.product(*(range(window.size) for window in windows)):
        begin, end, step = [0] * len(sizes), list(sizes), [1] * len(sizes)
        for a, o, n, window in zip(axes, offset, places, windows, strict=True):
            begin[a], end[a], step[a] = o, o + (n - 1) * window.stride + 1, window.stride
        if all(s == 1 for s in step):
            yield offset, tf.slice(value, begin, [e - b for b, e in zip(begin, end)])
        else:
            yield offset, tf.strided_slice(value, begin, end, step)
