"""Where decoding begins: behind what the decoder reads of all prompts at once."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder


class Start(NamedTuple):
    """What is read of the prompts before the first step.

    Attributes:
      decoder: goes on from there.
      read_at_once: the positions of prompts that it has read in one pass; 0 for none.
      known: {batch} int32, how many ids of every prompt end nothing.
      position: the first position that a step must make, an int32 scalar.
    """

    decoder: Decoder
    read_at_once: int
    known: mtf.Tensor
    position: mtf.Tensor


def start_of(
    decoder: Decoder,
    prompts: mtf.Tensor,
    limits: mtf.Tensor,
    *,
    longest_prompt: int | None,
    end_id: int,
) -> Start:
    """Returns where steps begin: behind the ids that all prompts have.

    Args:
      decoder: the model.
      prompts: {batch, length} ids, 0 behind each prompt.
      limits: {batch} int32, see `generate`; rows of 0 only fill up the batch and have no say.
      longest_prompt: no prompt has more ids; None for the length.
      end_id: the id that ends a row.
    """
    length = prompts.shape.get_dim_by_name("length")
    longest = length.size if longest_prompt is None else min(longest_prompt, length.size)
    # A step must make what ends a row.
    known = number_of_known(prompts, length, None if decoder.given_ends else end_id)
    known = mtf.minimum(known, limits)
    if decoder.at_once is None or not longest:
        return Start(decoder, 0, known, mtf.constant(prompts.mesh, 0, dtype=tf.int32))
    known = mtf.minimum(known, longest)
    position = mtf.reduce_min(mtf.where(mtf.greater(limits, 0), known, longest))
    return Start(decoder.at_once(longest, known), longest, known, position)


def worth_reading_at_once(number: int, longest: int) -> bool:
    """Returns whether to read a prompt of so many ids at once takes less time than steps.

    To read a position at once takes a quarter of the time of a step or less (measured).

    Args:
      number: the ids.
      longest: the positions that are read with them.
    """
    return 0 < longest <= 3 * number


def number_of_known(
    prompts: mtf.Tensor, length: mtf.Dimension, end_id: int | None = None
) -> mtf.Tensor:
    """Returns {...} int32: how many ids {..., length} are before the first 0 or end id."""
    unknown = mtf.equal(prompts, 0)
    if end_id is not None:
        unknown = mtf.logical_or(unknown, mtf.equal(prompts, end_id))
    positions = mtf.range(prompts.mesh, length)
    first = mtf.where(unknown, positions, length.size, output_shape=prompts.shape)
    return mtf.reduce_min(first, reduced_dim=length)


def ids_before(prompts: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {batch, length}: the prompts' ids before a position, and 0 from there on."""
    length = prompts.shape.get_dim_by_name("length")
    before = mtf.less(mtf.range(prompts.mesh, length), position)
    return mtf.where(before, prompts, 0, output_shape=prompts.shape)


def id_before(prompts: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {batch}: the prompts' id just before a position; 0 before the first one."""
    return mtf.gather(prompts, position - 1, prompts.shape.get_dim_by_name("length"))


def is_end(start: Start, token: mtf.Tensor, position: mtf.Tensor, end_id: int) -> mtf.Tensor:
    """Returns whether a token {batch...} at a position ends its row, in the shape of the token.

    Those in prompts do not always, see `Decoder.given_ends`.
    """
    new = mtf.greater_equal(position, start.known)
    return mtf.logical_and(mtf.equal(token, end_id), new)
