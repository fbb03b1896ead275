"""Sequences in slices, one after the other, for memory's sake."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun import mtf


def over_slices(
    fn: Callable[[mtf.Tensor], mtf.Tensor], x: mtf.Tensor, output_dim: mtf.Dimension, tokens: int
) -> mtf.Tensor:
    """Returns fn(x), made of the values of fn for slices of about so many tokens.

    Args:
      fn: from {batch..., positions, d_model} to {batch..., positions, output_dim}; treats positions
        one by one.
      x: {batch..., length, d_model}.
      output_dim: as above.
      tokens: a slice has so many, or one position of all rows if these are more.
    """
    *batch, length, d_model = x.shape.dims
    positions = max(1, tokens // mtf.Shape(batch).size)
    number = -(-length.size // positions)
    if number == 1:
        return fn(x)
    # Under names without a layout rule.
    slices, part = mtf.Dimension("slices", number), mtf.Dimension("slice_length", positions)
    whole = mtf.Dimension("slices_length", number * positions)
    x = mtf.rename_dimension(x, length.name, whole.name)
    x = mtf.pad(x, [0, whole.size - length.size], whole.name)
    x = mtf.replace_dimensions(x, whole, [slices, part])

    def advance(i: mtf.Tensor, y: mtf.Tensor) -> list[mtf.Tensor]:
        return [i + 1, mtf.write_position(y, fn(mtf.gather(x, i, slices)), slices, i)]

    zeros = mtf.zeros(x.mesh, (x.shape - d_model) + output_dim, x.dtype)
    first = [mtf.constant(x.mesh, 0, dtype=tf.int32), zeros]
    _, y = mtf.while_loop(lambda i, y: mtf.less(i, number), advance, first)
    y = mtf.slice(mtf.replace_dimensions(y, [slices, part], whole), 0, length.size, whole.name)
    return mtf.rename_dimension(y, whole.name, length.name)
