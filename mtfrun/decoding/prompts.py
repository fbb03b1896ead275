"""Prompts of a batch: their settings and lengths, and whether they are read in one pass."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.rules import DecodedIds, Rules
from mtfrun.decoding.decoder import Decoder

# In prompts, where the model chooses the id.
_FREE = -1


class PromptOptions(TypedDict, total=False):
    """Settings for reading and continuing prompts {batch, length}.

    Attributes:
      limits: {batch} int32, the largest number of ids of a row, prompt included; 0 for rows that
        pad the batch. By default the size of `length`.
      longest_prompt: the largest number of ids in a prompt, by default the size of `length`: so
        many positions are read in one pass, where the decoder can do so.
      padding_id: the id of positions where the model chooses, by default 0.
      rules: the rules of outputs.
    """

    limits: mtf.Tensor | None
    longest_prompt: int | None
    padding_id: int
    rules: Rules | None


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The prompts of a batch, and the state of decoding before the first step.

    Attributes:
      decoder: a decoder that has read the prompts so far.
      ids: {batch, length} int32; -1 where the model chooses.
      lengths: {batch} int32, the number of ids at the beginning of a row that do not end it.
      limits: {batch} int32, the largest number of ids of a row; 0 for rows that pad the batch.
      rules: the rules of outputs.
      read_at_once: the number of positions that were read in one pass; 0 if steps read prompts.
      position: int32 scalar, the position of the first step.
    """

    decoder: Decoder
    ids: mtf.Tensor
    lengths: mtf.Tensor
    limits: mtf.Tensor
    rules: Rules
    read_at_once: int
    position: mtf.Tensor

    @property
    def length(self) -> mtf.Dimension:
        return self.ids.shape.get_dim_by_name("length")

    def ids_before(self, position: mtf.Tensor) -> mtf.Tensor:
        """Returns {batch, length}: ids before a position, else 0; -1 in rows that pad a batch.

        position: an int32 scalar, or {batch}.
        """
        indices = mtf.range(self.ids.mesh, self.length)
        before = mtf.less(indices, position, output_shape=[*position.shape, self.length])
        return mtf.where(before, self.ids, 0, output_shape=self.ids.shape)

    def id_at(self, position: mtf.Tensor) -> mtf.Tensor:
        """Returns {batch}: the id at a position; negative where the model chooses, 0 at -1."""
        return mtf.gather(self.ids, position, self.length)

    def is_end(self, token: mtf.Tensor, position: mtf.Tensor, guided: Any) -> mtf.Tensor:
        """Returns whether a token {batch...} ends its row; guided: the guide's state after it."""
        may_end = mtf.greater_equal(position, self.lengths)
        return mtf.logical_and(self.rules.is_end(token, guided), may_end)

    def process(
        self, logits: mtf.Tensor, ids: mtf.Tensor, position: mtf.Tensor, guided: Any
    ) -> mtf.Tensor:
        """Returns float32 logits as the rules process them; see `DecodedIds` and `Guide.mask`."""
        decoded = DecodedIds(ids, position, self.lengths, self.rules.end_ids, self.limits)
        return self.rules.process(logits, decoded, guided, self.limits - position)


def read_prompts(
    decoder: Decoder,
    ids: mtf.Tensor,
    *,
    limits: mtf.Tensor | None = None,
    longest_prompt: int | None = None,
    padding_id: int = 0,
    rules: Rules | None = None,
) -> Prompts:
    """Returns the prompts; the first step is at the end of the shortest prompt.

    Where the decoder cannot read prompts in one pass, it is at position 0.
    """
    rules = rules or Rules()
    batch, length = ids.shape
    if padding_id != _FREE:
        ids = mtf.where(mtf.equal(ids, padding_id), _FREE, ids)
    if limits is None:
        limits = mtf.constant(ids.mesh, length.size, [batch], tf.int32)
    longest = length.size if longest_prompt is None else min(longest_prompt, length.size)
    # The id that ends a row is always decoded by a step.
    ends = None if decoder.ends_in_prompts else rules.end_ids[0]
    lengths = mtf.minimum(count_prompt_ids(ids, length, ends, padding_id=_FREE), limits)
    if decoder.at_once is None or not longest:
        first = mtf.constant(ids.mesh, 0, dtype=tf.int32)
        return Prompts(decoder, ids, lengths, limits, rules, 0, first)
    lengths = mtf.minimum(lengths, longest)
    first = mtf.reduce_min(mtf.where(mtf.greater(limits, 0), lengths, longest))
    decoder = decoder.at_once(longest, lengths)
    return Prompts(decoder, ids, lengths, limits, rules, longest, first)


def count_prompt_ids(
    prompts: mtf.Tensor, length: mtf.Dimension, end_id: int | None = None, *, padding_id: int = 0
) -> mtf.Tensor:
    """Returns {...} int32: the number of ids {..., length} before the first padding or end id."""
    unknown = mtf.equal(prompts, padding_id)
    if end_id is not None:
        unknown = mtf.logical_or(unknown, mtf.equal(prompts, end_id))
    positions = mtf.range(prompts.mesh, length)
    first = mtf.where(unknown, positions, length.size, output_shape=prompts.shape)
    return mtf.reduce_min(first, reduced_dim=length)


def worth_reading_at_once(number: int, longest: int) -> bool:
    """Returns whether a pass is faster than steps; a position costs 1/4 step at most (measured)."""
    return 0 < longest <= 3 * number
