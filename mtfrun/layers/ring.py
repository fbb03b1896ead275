"""Memories of the last positions: i is at place i % size, where it replaces an older one."""

from __future__ import annotations

from mtfrun import mtf


def ring_positions(window: mtf.Dimension, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {window} int32: the position at every place of a ring, negative where none is yet.

    Args:
      window: the places.
      position: the last position that was written, an int32 scalar.
    """
    return position - mtf.mod(position - mtf.range(position.mesh, window), window.size)


def write_to_ring(
    ring: mtf.Tensor, entry: mtf.Tensor, window: mtf.Dimension, position: mtf.Tensor
) -> mtf.Tensor:
    """Returns a ring {..., window, ...} with the entry {...} of a position, an int32 scalar."""
    return mtf.write_position(ring, entry, window, position % window.size)


def ring_of(
    x: mtf.Tensor, length: mtf.Dimension, next_position: mtf.Tensor, shape: mtf.Shape
) -> mtf.Tensor:
    """Returns the ring before a position is written; zeros where there is none before it.

    Args:
      x: {..., length, ...} the entries of the positions 0, 1, ...
      length: these positions.
      next_position: the position to be written next, an int32 scalar.
      shape: of the ring: that of x with a dimension "window_length" instead of `length`.
    """
    window = shape.get_dim_by_name("window_length")
    return mtf.gather(x, ring_positions(window, next_position - 1), length, output_shape=shape)
