"""A function of sequences applied to chunks of positions, which bounds its memory."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun import mtf


def map_chunks(
    fn: Callable[[mtf.Tensor], mtf.Tensor], x: mtf.Tensor, output_dim: mtf.Dimension, tokens: int
) -> mtf.Tensor:
    """Returns fn(x), computed for chunks of about `tokens` tokens.

    Args:
      fn: from {batch..., positions, d_model} to {batch..., positions, output_dim}; its positions
        do not depend on each other.
      x: {batch..., length, d_model}.
      output_dim: of the output.
      tokens: the size of a chunk; it has at least one position of all sequences.
    """
    *batch, length, d_model = x.shape.dims
    positions = max(1, tokens // mtf.Shape(batch).size)
    number = -(-length.size // positions)
    if number == 1:
        return fn(x)
    # Under names without a layout rule.
    chunks, chunk = mtf.Dimension("chunks", number), mtf.Dimension("chunk_length", positions)
    padded = mtf.Dimension("chunks_length", number * positions)
    x = mtf.rename_dimension(x, length.name, padded.name)
    x = mtf.pad(x, [0, padded.size - length.size], padded.name)
    x = mtf.replace_dimensions(x, padded, [chunks, chunk])

    def advance(i: mtf.Tensor, y: mtf.Tensor) -> list[mtf.Tensor]:
        return [i + 1, mtf.write_position(y, fn(mtf.gather(x, i, chunks)), chunks, i)]

    zeros = mtf.zeros(x.mesh, (x.shape - d_model) + output_dim, x.dtype)
    first = [mtf.constant(x.mesh, 0, dtype=tf.int32), zeros]
    _, y = mtf.while_loop(lambda i, _: mtf.less(i, number), advance, first, rounds=number)
    y = mtf.slice(mtf.replace_dimensions(y, [chunks, chunk], padded), 0, length.size, padded.name)
    return mtf.rename_dimension(y, padded.name, length.name)
