"""Where decoding begins: behind what the decoder has read of all prompts."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder


def first_position(decoder: Decoder, prompts: mtf.Tensor, limits: mtf.Tensor) -> mtf.Tensor:
    """Returns the first position that a step must make, an int32 scalar.

    Args:
      decoder: the model.
      prompts: {batch, length} ids.
      limits: {batch} int32; rows of 0 only fill up the batch and have no say.
    """
    if decoder.prefilled is None:
        return mtf.constant(prompts.mesh, 0, dtype=tf.int32)
    length = prompts.shape.get_dim_by_name("length")
    return mtf.reduce_min(mtf.where(mtf.greater(limits, 0), decoder.prefilled, length.size))


def ids_before(prompts: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {batch, length}: the prompts' ids before a position, and 0 from there on."""
    length = prompts.shape.get_dim_by_name("length")
    before = mtf.less(mtf.range(prompts.mesh, length), position)
    return mtf.where(before, prompts, 0, output_shape=prompts.shape)


def id_before(prompts: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {batch}: the prompts' id just before a position; 0 before the first one."""
    return mtf.gather(prompts, position - 1, prompts.shape.get_dim_by_name("length"))


def is_end(decoder: Decoder, token: mtf.Tensor, forced: mtf.Tensor, end_id: int) -> mtf.Tensor:
    """Returns whether a token {batch...} ends its row, in the shape of the token.

    Args:
      decoder: the model; of a language model, what prompts hold ends nothing.
      token: the ids of a position.
      forced: {batch} the prompts' ids at that position; 0 behind them.
      end_id: the id that ends a row.
    """
    ended = mtf.equal(token, end_id)
    if not decoder.given_ends:
        return ended
    return mtf.logical_and(ended, mtf.equal(forced, 0))
