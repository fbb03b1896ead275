"""Shifts along a dimension, and halo exchange between neighbouring blocks.

{row_blocks, rows, ...}: a split image's blocks are laid out on a mesh axis, their positions not.
"""

from __future__ import annotations

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.ops.constants import range as index_range
from mtfrun.mtf.ops.indexing import gather
from mtfrun.mtf.ops.joining import concat, pad
from mtfrun.mtf.ops.joining import slice as slice_along
from mtfrun.mtf.ops.structure import rename_dimension, replace_dimensions
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, lay_out


@accept_name
def shift(x: TensorLike, offset: int, dim: DimensionLike, wrap: bool) -> Tensor:
    """Returns x shifted along a dimension: entry i of the result is entry i - offset of x.

    With `wrap` entries that leave at one end enter at the other, else zeros enter. Along a split
    dimension devices exchange `abs(offset)` entries, or all of x if that exceeds a device's part.
    """
    return _shift(as_tensor(x), offset, convert_to_dimension(dim), wrap, 0.0)


def dynamic_shift(x: TensorLike, offset: TensorLike, dim: DimensionLike, wrap: bool) -> Tensor:
    """Returns `shift` by integers {any of x's other dimensions}; a split dimension is gathered."""
    x, offset = as_tensor(x), as_tensor(offset)
    dim = convert_to_dimension(dim)
    x.shape.index(dim)
    for offset_dim in offset.shape:
        x.shape.index(offset_dim)
    source_dim = Dimension(f"_{dim.name}_source", dim.size)
    source = index_range(x.mesh, dim, offset.dtype) - offset
    if wrap:
        source = source % dim.size
    return gather(rename_dimension(x, dim.name, source_dim.name), source, source_dim, x.shape)


def halo_exchange(
    x: TensorLike,
    blocks_dim: DimensionLike | None,
    block_size_dim: DimensionLike,
    halo_size: int,
    wrap: bool = False,
) -> Tensor:
    """Returns every block with the edges of its neighbours before and after it.

    `block_size_dim` grows by `2 * halo_size`, which may exceed a block; `blocks_dim` is None for
    one block. With `wrap` the first and last block are neighbours, else zeros are beyond them.
    """
    return add_margins(as_tensor(x), blocks_dim, block_size_dim, halo_size, halo_size, wrap=wrap)


def left_halo_exchange(
    x: TensorLike,
    blocks_dim: DimensionLike | None,
    block_size_dim: DimensionLike,
    halo_size: int,
    wrap: bool = False,
) -> Tensor:
    """Returns every block with the edge of the block before it; see `halo_exchange`."""
    return add_margins(as_tensor(x), blocks_dim, block_size_dim, halo_size, 0, wrap=wrap)


def add_margins(
    x: Tensor,
    blocks_dim: DimensionLike | None,
    block_size_dim: DimensionLike,
    before: int,
    after: int,
    *,
    wrap: bool = False,
    fill: float = 0.0,
) -> Tensor:
    """Returns every block with `before` and `after` positions of its neighbours, else `fill`.

    Only the edges move between devices. With `wrap` the first and last block are neighbours.
    """
    dim = convert_to_dimension(block_size_dim)
    x.shape.index(dim)
    if before < 0 or after < 0:
        raise ShapeError(f"margins must not be negative, got {(before, after)} for {dim.name}")
    if before == after == 0:
        return x
    blocks = None if blocks_dim is None else convert_to_dimension(blocks_dim)
    if (blocks is None or blocks.size == 1) and not wrap:
        return pad(x, (before, after), dim.name, fill=fill)

    def from_neighbour(edge: Tensor, offset: int) -> Tensor:
        return edge if blocks is None else _shift(edge, offset, blocks, wrap, fill)

    parts = [x]
    for offset, width in _edge_widths(before, dim.size):
        edge = slice_along(x, dim.size - width, width, dim.name)
        parts.insert(0, from_neighbour(edge, offset))
    for offset, width in _edge_widths(after, dim.size):
        edge = slice_along(x, 0, width, dim.name)
        parts.append(from_neighbour(edge, -offset))
    return concat(parts, dim.name)


def _edge_widths(margin: int, block_size: int) -> list[tuple[int, int]]:
    """Returns (distance in blocks, width) of the parts of a margin; the last may be narrower."""
    num_blocks, remainder = divmod(margin, block_size)
    widths = [block_size] * num_blocks + [remainder] * (remainder > 0)
    return list(enumerate(widths, start=1))


def _shift(x: Tensor, offset: int, dim: Dimension, wrap: bool, fill: float) -> Tensor:
    x.shape.index(dim)
    if wrap:
        offset %= dim.size
        if offset > dim.size // 2:  # the other direction is shorter
            offset -= dim.size
    if offset == 0:
        return x
    if abs(offset) >= dim.size:
        return lay_out(x, tf.fill(x.value.shape, tf.cast(fill, x.dtype)), x.shape)
    parts = x.mesh.num_splits(dim)
    blocks: Dimension | None = None
    block = Dimension(f"{dim.name}_whole", dim.size)
    if 1 < parts < dim.size and abs(offset) <= dim.size // parts:
        blocks = Dimension(dim.name, parts)
        block = Dimension(f"_{dim.name}_part", dim.size // parts)
    # Not tf.roll: DTensor has no rule for it. A part, or the renamed whole, is not split.
    in_blocks = [block] if blocks is None else [blocks, block]
    x = replace_dimensions(x, dim, in_blocks)
    wide = add_margins(x, blocks, block, max(0, offset), max(0, -offset), wrap=wrap, fill=fill)
    shifted = slice_along(wide, max(0, -offset), block.size, block.name)
    return replace_dimensions(shifted, in_blocks, dim)
