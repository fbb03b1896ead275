"""Memories of the last positions: i is at place i % size, where it replaces an older one."""

from __future__ import annotations

from mtfrun import mtf


def ring_positions(window: mtf.Dimension, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {..., window} int32: the position at every place, negative where none is yet.

    Args:
      window: the places.
      position: {...} int32, the last position that was written.
    """
    places = mtf.range(position.mesh, window)
    behind = mtf.mod(mtf.sub(position, places, output_shape=[*position.shape, window]), window.size)
    return position - behind


def write_to_ring(
    ring: mtf.Tensor,
    entry: mtf.Tensor,
    window: mtf.Dimension,
    position: mtf.Tensor,
    condition: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns a ring {..., window, ...} with the entry {...} of a position, an int32 scalar.

    Of rows where the condition does not hold nothing is written.
    """
    return mtf.write_position(ring, entry, window, position % window.size, condition)


def ring_of(
    x: mtf.Tensor, length: mtf.Dimension, number: mtf.Tensor, shape: mtf.Shape
) -> mtf.Tensor:
    """Returns the ring after some positions were written; zeros where there is none yet.

    Args:
      x: {batch..., length, ...} the entries of the positions 0, 1, ...
      length: these positions.
      number: {batch...} int32, how many of them were written.
      shape: of the ring: that of x with a dimension "window_length" instead of `length`.
    """
    window = shape.get_dim_by_name("window_length")
    return mtf.gather(x, ring_positions(window, number - 1), length, output_shape=shape)
