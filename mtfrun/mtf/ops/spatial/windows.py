"""Windows that slide over spatial dimensions (convolutions, pooling): padding, halos, positions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import tensorflow as tf

from mtfrun.errors import LayoutError, ShapeError
from mtfrun.mtf.ops.binary import where
from mtfrun.mtf.ops.constants import range as index_range
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.spatial.halo import add_margins
from mtfrun.mtf.ops.structure import replace_dimensions, reshape, transpose
from mtfrun.mtf.porting import convert_to_dimension
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape
from mtfrun.mtf.tensor import Tensor, lay_out

Blocks: TypeAlias = "Sequence[DimensionLike | None]"


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of `size` positions, over a dimension with `before` and `after` positions added."""

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0

    def num_places(self, length: int) -> int:
        """Returns the number of places that the window has in a dimension of this length."""
        return (length + self.before + self.after - self.size) // self.stride + 1


def same_window(length: int, size: int, stride: int = 1) -> Window:
    """Returns TensorFlow's "SAME": ceil(length / stride) places; odd padding is more at the end."""
    places = -(-length // stride)
    total = max(0, (places - 1) * stride + size - length)
    return Window(size, stride, total // 2, total - total // 2)


def are_same(value: tf.Tensor, windows: Sequence[Window]) -> bool:
    """Returns whether windows over the last dimensions but for the channels have "SAME" padding."""
    lengths = value.shape[-1 - len(windows) : -1]
    return all(w == same_window(n, w.size, w.stride) for n, w in zip(lengths, windows, strict=True))


def windows_over(
    x: Tensor, blocks: Blocks, sizes: Sequence[int], strides: Sequence[int], padding: str
) -> list[Window]:
    """Returns the windows over the whole length of every spatial dimension of x.

    Without blocks "SAME" is TensorFlow's. With any, whatever their number, place i begins at
    i * stride - size // 2, as in Mesh TensorFlow: TensorFlow's only for stride 1 and odd sizes.
    """
    windows = []
    spatial = spatial_dims(x, len(blocks), padding)
    block_dims = [convert_to_dimension(block) for block in blocks]
    for dim, block, size, stride in zip(spatial, block_dims, sizes, strides, strict=True):
        length = dim.size * (1 if block is None else block.size)
        if padding == "VALID":
            window = Window(size, stride)
        elif any(block_dims):
            window = Window(size, stride, size // 2, (size - 1) // 2)
        else:
            window = same_window(length, size, stride)
        if window.num_places(length) < 1:
            raise ShapeError(f"a window of {size} is longer than {dim.name}, which has {length}")
        windows.append(window)
    return windows


def spatial_dims(x: Tensor, number: int, padding: str = "SAME") -> list[Dimension]:
    """Returns the dimensions of x before its channels; a ShapeError for another padding."""
    if padding not in ("SAME", "VALID"):
        raise ShapeError(f"padding must be 'SAME' or 'VALID', got {padding!r}")
    if x.shape.ndims <= number:
        raise ShapeError(f"x {x.shape} needs {number} spatial dimensions and channels")
    return x.shape.dims[-number - 1 : -1]


def over_blocks(
    x: Tensor,
    blocks: Blocks,
    windows: Sequence[Window],
    compute: Callable[[Tensor, list[Window]], Tensor],
    fill: float = 0.0,
) -> Tensor:
    """Returns compute(x, windows) of x in blocks, each with the halo that its windows need.

    `compute` adds the padding of the windows over one block that it takes. A spatial dimension that
    is split is treated as blocks, one on each device.
    """
    spatial = spatial_dims(x, len(blocks))
    block_dims = [convert_to_dimension(block) for block in blocks]
    x, parts, part_blocks = _split_as_blocks(x, spatial, block_dims)
    block_windows = list(windows)
    for i, (dim, block, window) in enumerate(zip(parts, part_blocks, windows, strict=True)):
        if block is not None and block.size > 1:
            x = _add_halo(x, block, dim, window, fill)
            block_windows[i] = Window(window.size, window.stride)
    y = compute(x, block_windows)
    for dim in spatial:
        if _part_name(dim) in y.shape.dimension_names:
            outer = y.shape.get_dim_by_name(dim.name)
            part = y.shape.get_dim_by_name(_part_name(dim))
            inner = [d for d in y.shape if d != outer]
            position = inner.index(part)
            y = transpose(y, [*inner[:position], outer, *inner[position:]])
            y = replace_dimensions(y, [outer, part], Dimension(dim.name, outer.size * part.size))
    return y


def spatial_strides(strides: Sequence[int], num_spatial: int) -> list[int]:
    """Returns the strides of the spatial dimensions, from these alone or from [1, *strides, 1]."""
    strides = list(strides)
    if len(strides) == num_spatial + 2 and strides[0] == strides[-1] == 1:
        strides = strides[1:-1]
    if len(strides) != num_spatial or any(s < 1 for s in strides):
        raise ShapeError(f"strides must be {num_spatial} positive numbers, got {strides}")
    return strides


def _add_halo(x: Tensor, block: Dimension, dim: Dimension, window: Window, fill: float) -> Tensor:
    """Returns for every block the positions that its equal share of all places covers.

    It begins `lag` positions earlier with every block: "VALID" has fewer places than positions.
    """
    x.shape.index(block)
    places = window.num_places(block.size * dim.size)
    if places % block.size:
        raise ShapeError(
            f"windows of {window.size} with stride {window.stride} have {places} places in {block} "
            f"of {dim}, which the blocks cannot share equally: change the size or the padding"
        )
    share = places // block.size
    lag = dim.size - share * window.stride
    needed = (share - 1) * window.stride + window.size
    begins = [-window.before - j * lag for j in range(block.size)]
    before = max(0, -min(begins))
    after = max(0, max(begins) + needed - dim.size)
    wide = add_margins(x, block, dim, before, after, fill=fill)
    if lag == 0:
        return slice_along(wide, begins[0] + before, needed, dim.name)
    # Every device slices all of the few candidates and selects one.
    index = index_range(x.mesh, block)
    result = slice_along(wide, begins[0] + before, needed, dim.name)
    for j in range(1, block.size):
        candidate = slice_along(wide, begins[j] + before, needed, dim.name)
        result = where(index >= j, candidate, result, output_shape=candidate.shape)
    return result


def _split_as_blocks(
    x: Tensor, spatial: Sequence[Dimension], blocks: Sequence[Dimension | None]
) -> tuple[Tensor, list[Dimension], list[Dimension | None]]:
    """Returns x with every spatial dimension that is split as blocks of an unsplit part.

    {batch, height, width, channels} with height over 2 becomes {batch, height:2, _height_part,
    width, channels}, without communication.
    """
    new_spatial, new_blocks = list(spatial), list(blocks)
    for i, (dim, block) in enumerate(zip(spatial, blocks, strict=True)):
        parts = x.mesh.num_splits(dim)
        if parts == 1:
            continue
        if block is not None and block.size > 1:
            blocked = f"{dim.name} has blocks, {block.name}, and a rule"
            raise LayoutError(f"{blocked}: lay out the blocks only")
        outer, part = Dimension(dim.name, parts), Dimension(_part_name(dim), dim.size // parts)
        x = replace_dimensions(x, dim, [outer, part])
        inner = [d for d in x.shape if d != outer]
        first = min(inner.index(d) for d in [*new_spatial, part] if d in inner)
        x = transpose(x, [*inner[:first], outer, *inner[first:]])
        new_spatial[i], new_blocks[i] = part, outer
    return x, new_spatial, new_blocks


def _part_name(dim: Dimension) -> str:
    return f"_{dim.name}_part"


def pad_windows(value: tf.Tensor, windows: Sequence[Window], fill: float = 0.0) -> tf.Tensor:
    """Returns a value [..., *spatial, channels] with the padding of the windows."""
    margins = [[window.before, window.after] for window in windows]
    if not any(map(any, margins)):
        return value
    leading = [[0, 0]] * (value.shape.rank - len(windows) - 1)
    return tf.pad(value, [*leading, *margins, [0, 0]], constant_values=fill)


def drop_skipped_entries(
    value: tf.Tensor, windows: Sequence[Window]
) -> tuple[tf.Tensor, list[Window]]:
    """Returns a padded value without the entries that windows of size 1 skip, and its windows.

    TensorFlow's fused kernels must not get their strides: the filter gradient of a strided 1x1
    convolution corrupts memory on some CPUs, see docs/dtensor.md.
    """
    strides = [window.stride if window.size == 1 else 1 for window in windows]
    if any(stride > 1 for stride in strides):
        step = [*[1] * (value.shape.rank - len(windows) - 1), *strides, 1]
        value = tf.strided_slice(value, [0] * value.shape.rank, value.shape.as_list(), step)
    return value, [Window(1) if w.size == 1 else w for w in windows]


def taps(value: tf.Tensor, windows: Sequence[Window]) -> Iterator[tf.Tensor]:
    """Yields, for every offset within the windows in order, the entries at it of all places."""
    *leading, channels = value.shape.as_list()
    lengths = [leading.pop() for _ in windows][::-1]
    places = [Window(w.size, w.stride).num_places(n) for n, w in zip(lengths, windows, strict=True)]
    step = [*[1] * len(leading), *(window.stride for window in windows), 1]
    for offset in itertools.product(*(range(window.size) for window in windows)):
        begin = [*[0] * len(leading), *offset, 0]
        if all(s == 1 for s in step):
            yield tf.slice(value, begin, [*leading, *places, channels])
        else:
            last = zip(offset, places, windows, strict=True)
            end = [*leading, *(o + (n - 1) * w.stride + 1 for o, n, w in last), channels]
            yield tf.strided_slice(value, begin, end, step)


def can_be_fused(x: Tensor, num_spatial: int, *channels: Dimension) -> bool:
    """Returns whether a kernel of TensorFlow's supports how x and the channels are split."""
    splits_channels = any(x.mesh.num_splits(dim) > 1 for dim in channels)
    return not splits_channels and len(_split_leading(x, num_spatial)) <= 1


def _split_leading(x: Tensor, num_spatial: int) -> list[Dimension]:
    return [dim for dim in x.shape.dims[: -num_spatial - 1] if x.mesh.num_splits(dim) > 1]


def over_merged_batch(
    fn: Callable[[Tensor], tf.Tensor], x: Tensor, num_spatial: int, out: Dimension
) -> Tensor:
    """Returns fn(x), the channels `out` in place of x's, with merged leading dimensions.

    fn keeps these. Several split dimensions stay, since a dimension cannot be split over two mesh
    axes; the rest are merged after them.
    """
    leading = x.shape.dims[: -num_spatial - 1]
    inner = x.shape.dims[-num_spatial - 1 :]
    split = _split_leading(x, num_spatial)
    # DTensor can merge a split dimension only where it is the first.
    order = split + [dim for dim in leading if dim not in split]
    merged = [Dimension(split[0].name if split else "_merged", Shape(order).size)]
    if len(split) > 1:
        merged = [*split, Dimension("_merged", Shape(order[len(split) :]).size)]
    x = reshape(transpose(x, [*order, *inner]), [*merged, *inner])
    value = fn(x)
    names = [*(dim.name for dim in inner[:-1]), out.name]
    new_inner = Shape(zip(names, value.shape[-num_spatial - 1 :], strict=True))
    y = reshape(lay_out(x, value, [*merged, *new_inner]), [*order, *new_inner])
    return transpose(y, [*leading, *new_inner])
