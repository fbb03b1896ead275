"""Windows that slide over spatial dimensions (convolutions, pooling): padding, halos, positions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import tensorflow as tf

from mtfrun.errors import LayoutError, ShapeError
from mtfrun.mtf.ops.binary import where
from mtfrun.mtf.ops.constants import range as index_range
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.spatial.halo import add_margins
from mtfrun.mtf.ops.structure import replace_dimensions, transpose
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape, convert_to_dimension
from mtfrun.mtf.tensor import Tensor

Blocks: TypeAlias = "Sequence[DimensionLike | None]"


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of `size` positions, over a dimension with `before` and `after` positions added."""

    size: int
    stride: int
    before: int = 0
    after: int = 0

    def num_places(self, length: int) -> int:
        """Returns the number of places that the window has in a dimension of this length."""
        return (length + self.before + self.after - self.size) // self.stride + 1


def same_window(length: int, size: int, stride: int) -> Window:
    """Returns TensorFlow's "SAME": ceil(length / stride) places; odd padding is more at the end."""
    places = -(-length // stride)
    total = max(0, (places - 1) * stride + size - length)
    return Window(size, stride, total // 2, total - total // 2)


def centred_window(size: int, stride: int) -> Window:
    """Returns the window of "SAME" with blocks: place i begins at i * stride - size // 2.

    As in Mesh TensorFlow; TensorFlow's differs except for stride 1 and odd sizes.
    """
    return Window(size, stride, size // 2, (size - 1) // 2)


def windows_over(
    spatial: Sequence[Dimension],
    blocks: Blocks,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: str,
) -> list[Window]:
    """Returns the windows over the whole length of every spatial dimension.

    Without blocks "SAME" is TensorFlow's, else `centred_window` in all dimensions, whatever the
    blocks. A ShapeError for another padding, or a window that is longer than its dimension.
    """
    if padding not in ("SAME", "VALID"):
        raise ShapeError(f"padding must be 'SAME' or 'VALID', got {padding!r}")
    with_blocks = any(block is not None for block in blocks)
    windows = []
    for dim, block, size, stride in zip(spatial, blocks, sizes, strides, strict=True):
        length = dim.size * (1 if block is None else convert_to_dimension(block).size)
        if padding == "VALID":
            window = Window(size, stride)
        elif with_blocks:
            window = centred_window(size, stride)
        else:
            window = same_window(length, size, stride)
        if window.num_places(length) < 1:
            raise ShapeError(f"a window of {size} is longer than {dim.name}, which has {length}")
        windows.append(window)
    return windows


def over_blocks(
    x: Tensor,
    blocks: Blocks,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: str,
    compute: Callable[[Tensor, list[Window]], Tensor],
    fill: float = 0.0,
) -> Tensor:
    """Returns compute(x, windows) of x in blocks, each with the halo that its windows need.

    `compute` adds the windows' padding. A spatial dimension that is split is treated as blocks.
    """
    if x.shape.ndims <= len(blocks):
        raise ShapeError(f"x {x.shape} needs {len(blocks)} spatial dimensions and channels")
    spatial = x.shape.dims[-len(blocks) - 1 : -1]
    windows = windows_over(spatial, blocks, sizes, strides, padding)
    wide, parts, part_blocks = split_spatial_as_blocks(x, spatial, blocks)
    wide, windows = add_halos(wide, parts, part_blocks, windows, fill)
    return split_spatial_again(compute(wide, windows), spatial)


def spatial_strides(strides: Sequence[int], num_spatial: int) -> list[int]:
    """Returns the strides of the spatial dimensions, from these alone or from [1, *strides, 1]."""
    strides = list(strides)
    if len(strides) == num_spatial + 2 and strides[0] == strides[-1] == 1:
        strides = strides[1:-1]
    if len(strides) != num_spatial or any(s < 1 for s in strides):
        raise ShapeError(f"strides must be {num_spatial} positive numbers, got {strides}")
    return strides


def resize(shape: Shape, value: tf.Tensor, out: Dimension) -> Shape:
    """Returns the dimension names of `shape` with the sizes of `value`; the last is `out`."""
    names = [*shape.dimension_names[:-1], out.name]
    return Shape(zip(names, value.shape.as_list(), strict=True))


def add_halos(
    x: Tensor,
    spatial: Sequence[Dimension],
    blocks: Blocks,
    windows: Sequence[Window],
    fill: float = 0.0,
) -> tuple[Tensor, list[Window]]:
    """Returns x, each block with the halo that its windows need, and the windows over one block.

    A ShapeError if the blocks cannot share the places of a window equally.
    """
    remaining = []
    for dim, block, window in zip(spatial, blocks, windows, strict=True):
        block = None if block is None else convert_to_dimension(block)
        if block is not None and block.size > 1:
            x.shape.index(block)
            x = _add_halo(x, block, dim, window, fill)
            window = Window(window.size, window.stride)
        remaining.append(window)
    return x, remaining


def _add_halo(x: Tensor, block: Dimension, dim: Dimension, window: Window, fill: float) -> Tensor:
    """Returns for every block the positions that its equal share of all places covers.

    It begins `lag` positions earlier with every block: "VALID" has fewer places than positions.
    """
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


def split_spatial_as_blocks(
    x: Tensor, spatial: Sequence[Dimension], blocks: Blocks
) -> tuple[Tensor, list[Dimension], list[DimensionLike | None]]:
    """Returns x with every spatial dimension that is split as blocks of an unsplit part.

    {batch, height, width, channels} with height over 2 becomes {batch, height:2, _height_part,
    width, channels}, without communication; the operations that follow only handle blocks. A
    LayoutError if a split dimension has several blocks already.
    """
    new_spatial, new_blocks = list(spatial), list(blocks)
    for i, (dim, block) in enumerate(zip(spatial, blocks, strict=True)):
        parts = x.mesh.num_splits(dim)
        if parts == 1:
            continue
        if block is not None and convert_to_dimension(block).size > 1:
            name = convert_to_dimension(block).name
            raise LayoutError(f"{dim.name} has blocks, {name}, and a rule: lay out the blocks only")
        outer, part = Dimension(dim.name, parts), Dimension(_part_name(dim), dim.size // parts)
        x = replace_dimensions(x, dim, [outer, part])
        inner = [d for d in x.shape if d != outer]
        first = min(inner.index(d) for d in [*new_spatial, part] if d in inner)
        x = transpose(x, [*inner[:first], outer, *inner[first:]])
        new_spatial[i], new_blocks[i] = part, outer
    return x, new_spatial, new_blocks


def split_spatial_again(y: Tensor, spatial: Sequence[Dimension]) -> Tensor:
    """Returns y with the spatial dimensions that `split_spatial_as_blocks` divided into blocks."""
    for dim in spatial:
        if _part_name(dim) not in y.shape.dimension_names:
            continue
        outer = y.shape.get_dim_by_name(dim.name)
        part = y.shape.get_dim_by_name(_part_name(dim))
        inner = [d for d in y.shape if d != outer]
        position = inner.index(part)
        y = transpose(y, [*inner[:position], outer, *inner[position:]])
        y = replace_dimensions(y, [outer, part], Dimension(dim.name, outer.size * part.size))
    return y


def _part_name(dim: Dimension) -> str:
    return f"_{dim.name}_part"


def pad_value(
    x: Tensor, axes: Sequence[int], windows: Sequence[Window], fill: float = 0.0
) -> tf.Tensor:
    """Returns x's value with the padding of the windows over these axes."""
    if not any(window.before or window.after for window in windows):
        return x.value
    paddings = [[0, 0]] * x.shape.ndims
    for axis, window in zip(axes, windows, strict=True):
        paddings[axis] = [window.before, window.after]
    return tf.pad(x.value, paddings, constant_values=fill)


def drop_skipped_entries(
    value: tf.Tensor, axes: Sequence[int], windows: Sequence[Window]
) -> tuple[tf.Tensor, list[Window]]:
    """Returns a padded value without the entries that windows of size 1 skip, and its windows.

    TensorFlow's fused kernels must not get their strides: the filter gradient of a strided 1x1
    convolution corrupts memory on some CPUs, see docs/dtensor.md.
    """
    step = [1] * value.shape.rank
    for axis, window in zip(axes, windows, strict=True):
        if window.size == 1:
            step[axis] = window.stride
    if all(s == 1 for s in step):
        return value, list(windows)
    value = tf.strided_slice(value, [0] * value.shape.rank, value.shape.as_list(), step)
    return value, [Window(1, 1) if w.size == 1 else w for w in windows]


def taps(value: tf.Tensor, axes: Sequence[int], windows: Sequence[Window]) -> Iterator[tf.Tensor]:
    """Yields, for every offset within the windows in order, the entries at it of all places."""
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
            yield tf.slice(value, begin, [e - b for b, e in zip(begin, end, strict=True)])
        else:
            yield tf.strided_slice(value, begin, end, step)


def can_be_fused(x: Tensor, num_leading: int, *channels: Dimension) -> bool:
    """Returns whether a kernel of TensorFlow's supports how x and the channels are split."""
    splits_channels = any(x.mesh.num_splits(dim) > 1 for dim in channels)
    return not splits_channels and len(split_leading_axes(x, num_leading)) <= 1


def split_leading_axes(x: Tensor, num_leading: int) -> list[int]:
    """Returns which of x's first dimensions are split over devices."""
    return [i for i in range(num_leading) if x.mesh.num_splits(x.shape[i]) > 1]


def merged_names(x: Tensor, num_leading: int) -> list[str]:
    """Returns the names of the leading dimensions of the value that `over_merged_batch` merges."""
    split = [x.shape[i].name for i in split_leading_axes(x, num_leading)]
    return split if len(split) == 1 else [*split, "_merged"]


def over_merged_batch(
    fn: Callable[[tf.Tensor], tf.Tensor], x: Tensor, value: tf.Tensor, num_leading: int
) -> tf.Tensor:
    """Returns fn(value), computed with merged leading dimensions, which fn does not change.

    Several split dimensions stay, since a dimension cannot be split over two mesh axes; the rest
    are merged after them. x's shape says which leading dimensions are split.
    """
    split = split_leading_axes(x, num_leading)
    # DTensor can merge a split dimension only where it is the first.
    order = split + [i for i in range(num_leading) if i not in split]
    in_order = order == list(range(num_leading))
    if not in_order:
        value = tf.transpose(value, [*order, *range(num_leading, value.shape.rank)])
    sizes = [x.shape[i].size for i in order]
    num_separate = len(split) if len(split) > 1 else 0
    merged = [*sizes[:num_separate], math.prod(sizes[num_separate:])]
    if merged != sizes:
        value = tf.reshape(value, [*merged, *value.shape[num_leading:]])
    result = fn(value)
    if merged != sizes:
        result = tf.reshape(result, [*sizes, *result.shape[len(merged) :]])
    if not in_order:
        back = [order.index(i) for i in range(num_leading)]
        result = tf.transpose(result, [*back, *range(num_leading, result.shape.rank)])
    return result
