"""The start of decoding: prompts, as far as they are read before the first step."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder

# In prompts, where the model chooses the id.
FREE = -1


class Start(NamedTuple):
    """The state of decoding before the first step.

    Attributes:
      decoder: a decoder that has read the prompts so far.
      read_at_once: the number of positions that it has read in one pass; 0 if steps read prompts.
      prompt_lengths: {batch} int32, the number of ids at the beginning of a row that do not end it.
      position: int32 scalar, the position of the first step.
    """

    decoder: Decoder
    read_at_once: int
    prompt_lengths: mtf.Tensor
    position: mtf.Tensor


def start_of(
    decoder: Decoder,
    prompts: mtf.Tensor,
    limits: mtf.Tensor,
    *,
    longest_prompt: int | None,
    end_id: int,
) -> Start:
    """Returns the start of decoding, whose first step is at the end of the shortest prompt.

    Where the decoder cannot read prompts in one pass, it is at position 0. `prompts` are padded
    with -1; rows of limit 0, which pad the batch, are ignored.
    """
    length = prompts.shape.get_dim_by_name("length")
    longest = length.size if longest_prompt is None else min(longest_prompt, length.size)
    # The id that ends a row is always decoded by a step.
    ends = None if decoder.ends_in_prompts else end_id
    prompt_lengths = count_prompt_ids(prompts, length, ends, padding_id=FREE)
    prompt_lengths = mtf.minimum(prompt_lengths, limits)
    if decoder.at_once is None or not longest:
        return Start(decoder, 0, prompt_lengths, mtf.constant(prompts.mesh, 0, dtype=tf.int32))
    prompt_lengths = mtf.minimum(prompt_lengths, longest)
    position = mtf.reduce_min(mtf.where(mtf.greater(limits, 0), prompt_lengths, longest))
    return Start(decoder.at_once(longest, prompt_lengths), longest, prompt_lengths, position)


def worth_reading_at_once(number: int, longest: int) -> bool:
    """Returns whether a pass is faster than steps; a position costs 1/4 step at most (measured)."""
    return 0 < longest <= 3 * number


def count_prompt_ids(
    prompts: mtf.Tensor,
    length: mtf.Dimension,
    end_id: int | None = None,
    *,
    padding_id: int = 0,
) -> mtf.Tensor:
    """Returns {...} int32: the number of ids {..., length} before the first padding or end id."""
    unknown = mtf.equal(prompts, padding_id)
    if end_id is not None:
        unknown = mtf.logical_or(unknown, mtf.equal(prompts, end_id))
    positions = mtf.range(prompts.mesh, length)
    first = mtf.where(unknown, positions, length.size, output_shape=prompts.shape)
    return mtf.reduce_min(first, reduced_dim=length)


def forced_ids(prompts: mtf.Tensor, padding_id: int) -> mtf.Tensor:
    """Returns the prompts, padded with `padding_id`, with -1 for it: where a model chooses."""
    if padding_id == FREE:
        return prompts
    return mtf.where(mtf.equal(prompts, padding_id), FREE, prompts)


def ids_before(prompts: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {batch, length}: ids before a position, else 0; negative in rows that pad a batch."""
    length = prompts.shape.get_dim_by_name("length")
    before = mtf.less(mtf.range(prompts.mesh, length), position)
    return mtf.where(before, prompts, 0, output_shape=prompts.shape)


def id_before(prompts: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
    """Returns {batch}: the prompts' id just before a position; 0 before the first one."""
    return mtf.gather(prompts, position - 1, prompts.shape.get_dim_by_name("length"))


def is_end(start: Start, token: mtf.Tensor, position: mtf.Tensor, end_id: int) -> mtf.Tensor:
    """Returns whether a token {batch...} ends its row; see `Decoder.ends_in_prompts`."""
    may_end = mtf.greater_equal(position, start.prompt_lengths)
    return mtf.logical_and(mtf.equal(token, end_id), may_end)
