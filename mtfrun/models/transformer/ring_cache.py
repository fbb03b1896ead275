"""Ring caches of the last positions: position i is in slot i % size, in place of an older one."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import KeysAndValues

_WINDOW = "window_length"


def ring_dimension(size: int) -> mtf.Dimension:
    """Returns the dimension of the slots of a ring."""
    return mtf.Dimension(_WINDOW, size)


def ring_positions(window: mtf.Dimension, position: mtf.Tensor) -> mtf.Tensor:
    """Returns the position in every slot after `position` was written; negative if empty."""
    slots = mtf.range(position.mesh, window)
    age = mtf.mod(mtf.sub(position, slots, output_shape=[*position.shape, window]), window.size)
    return position - age


def write_to_ring(
    ring: KeysAndValues,
    entries: KeysAndValues,
    position: mtf.Tensor,
    condition: mtf.Tensor | None = None,
) -> tuple[KeysAndValues, mtf.Dimension]:
    """Returns the ring with the entries of a position, and the dimension of its slots.

    `ring`: {batch..., window_length, ...} each; `entries`: {batch..., ...}. Rows where `condition`
    {batch...} does not hold do not change.
    """
    window = ring.keys.shape.get_dim_by_name(_WINDOW)
    slot = position % window.size
    written = ring.map(
        lambda memory, entry: mtf.write_position(memory, entry, window, slot, condition), entries
    )
    return written, window


def ring_after(
    memory: KeysAndValues, length: mtf.Dimension, number: mtf.Tensor, shape: mtf.Shape
) -> KeysAndValues:
    """Returns the ring after the first positions were written; zeros in empty slots.

    `memory`: {batch..., length, ...} each; `number` {batch...}: how many positions were written;
    `shape` has a dimension "window_length" instead of `length`.
    """
    positions = ring_positions(shape.get_dim_by_name(_WINDOW), number - 1)
    return memory.map(lambda x: mtf.gather(x, positions, length, output_shape=shape))
