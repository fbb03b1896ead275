"""Decoding position by position: prompts, the loop, and one hypothesis a row, greedy or sampled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack, cast

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.rules import DecodedIds, Rules
from mtfrun.decoding.controls.sampling import ChooseToken
from mtfrun.decoding.decoder import (
    Decoder,
    Hypotheses,
    StepFunction,
    empty_trace,
    trace_of_step,
    write_trace,
)

# In prompts, where the model chooses the id.
_FREE = -1

# Attention reads the whole cache at every step. In four segments it reads 5/8 of it on average, for
# a program of four times the size: measured 16 % faster with beams, 3-4 % without.
_SEGMENTS = 4
# Shorter segments save less time than their loops cost.
_SHORTEST_SEGMENT = 16


def generate(
    decoder: Decoder, prompts: mtf.Tensor, choose: ChooseToken, **options: Unpack[PromptOptions]
) -> Hypotheses:
    """Returns every prompt continued to its end id or its limit; without the beam dimension.

    To be called inside `mtf.function`: one compiled program serves all prompts of one batch and
    length. It stops when all rows have ended.

    Args:
      decoder: the model, for these prompts without a beam.
      prompts: {batch, length} int32, of any lengths, padded on the right. Where an id is not
        padding, it replaces the model's choice; an end id ends its row, but see `Rules`.
      options: see `PromptOptions`.
    """
    start = read_prompts(decoder, prompts, **options)
    last = decode_positions(start, _first(start), functools.partial(_advance, start, choose))
    return Hypotheses(last.ids, last.log_probs, last.ended, last.trace)


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


class _Progress(NamedTuple):
    """The loop's variables: `done` rows have ended or reached their limit.

    `guided` {batch}: see `Rules`.
    """

    position: mtf.Tensor
    previous: mtf.Tensor
    ids: mtf.Tensor
    log_probs: mtf.Tensor
    ended: mtf.Tensor
    done: mtf.Tensor
    unfinished: mtf.Tensor
    guided: Any
    trace: Any
    state: Any


def _first(prompts: Prompts) -> _Progress:
    mesh, position, rows = prompts.ids.mesh, prompts.position, prompts.limits.shape
    done = mtf.less_equal(prompts.limits, position)
    return _Progress(
        position=position,
        previous=prompts.id_at(position - 1),
        ids=prompts.ids_before(position),
        log_probs=mtf.zeros(mesh, rows),
        ended=mtf.zeros(mesh, rows, tf.bool),
        done=done,
        unfinished=mtf.logical_not(mtf.reduce_all(done)),
        guided=prompts.rules.first_guided(mesh, rows),
        trace=empty_trace(mesh, prompts.ids.shape, prompts.rules.log_probs),
        state=(),
    )


def _advance(
    prompts: Prompts, choose: ChooseToken, progress: _Progress, step: StepFunction
) -> _Progress:
    position = progress.position
    logits, state = step(progress.previous, position, progress.state)
    logits = mtf.to_float(logits)
    (vocab,) = logits.shape - prompts.limits.shape
    forced = prompts.id_at(position)
    is_forced = mtf.greater_equal(forced, 0)
    processed = prompts.process(logits, progress.ids, position, progress.guided)
    token = mtf.where(is_forced, forced, choose(processed, position))
    log_prob = mtf.gather(logits, token, vocab) - mtf.reduce_logsumexp(logits, vocab)
    counts = mtf.logical_not(mtf.logical_or(progress.done, is_forced))
    token = mtf.where(progress.done, 0, token)
    guided = prompts.rules.advance(progress.guided, token, counts)
    ended = mtf.logical_or(progress.ended, prompts.is_end(token, position, guided))
    done = mtf.logical_or(ended, mtf.greater_equal(position + 1, prompts.limits))
    is_written = mtf.equal(mtf.range(prompts.ids.mesh, prompts.length), position)
    is_open = mtf.logical_and(
        mtf.logical_not(progress.done), is_written, output_shape=progress.ids.shape
    )
    return _Progress(
        position=position + 1,
        previous=token,
        ids=mtf.where(is_written, token, progress.ids, output_shape=prompts.ids.shape),
        log_probs=progress.log_probs + mtf.where(counts, log_prob, 0.0),
        ended=ended,
        done=done,
        unfinished=mtf.logical_not(mtf.reduce_all(done)),
        guided=guided,
        trace=write_trace(progress.trace, trace_of_step(logits, token, progress.trace), is_open),
        state=state,
    )


# A NamedTuple of the loop's variables, among them `position`, the position of the next step, an
# int32 scalar; `unfinished`, a bool scalar; `state`, the decoder's.
P = TypeVar("P")


def decode_positions(prompts: Prompts, first: P, advance: Callable[[P, StepFunction], P]) -> P:
    """Returns the variables after steps to the last position, or until all rows are finished."""
    progress: Any = first
    decoder, length, state = prompts.decoder, prompts.length, None
    for end in _segment_ends(prompts):
        shorter = decoder
        if end < length.size and decoder.within is not None:
            shorter = decoder.within(end)
        state = shorter.initial_state if state is None else fit_state(state, shorter.initial_state)
        (progress,) = mtf.while_loop(
            lambda p, end=end: mtf.logical_and(p.unfinished, mtf.less(p.position, end)),
            lambda p, step=shorter.step: [advance(p, step)],
            [progress._replace(state=state)],
        )
        state = progress.state
    return cast(P, progress)


def _segment_ends(prompts: Prompts) -> list[int]:
    """Returns the ends of the segments, where caches grow, after the positions read in one pass.

    On several devices there is one segment, because every loop takes seconds to compile.
    """
    size = prompts.length.size
    number = min(_SEGMENTS, size // _SHORTEST_SEGMENT)
    if prompts.decoder.within is None or prompts.ids.mesh.is_distributed or number < 2:
        return [size]
    ends = [-(-size * i // number) for i in range(1, number + 1)]
    return [end for end in ends if end > prompts.read_at_once] or [size]


def fit_state(state: Any, like: Any) -> Any:
    """Returns a state in the shapes of another, for more positions or fewer.

    It is padded with zeros or cut off, and broadcast along a beam or the rows.
    """

    def fit(x: mtf.Tensor, like: mtf.Tensor) -> mtf.Tensor:
        for dim in x.shape:
            size = like.shape.get_dim_by_name(dim.name).size
            if size > dim.size:
                x = mtf.pad(x, [0, size - dim.size], dim.name)
            elif size < dim.size:
                x = mtf.slice(x, 0, size, dim.name)
        return x if x.shape == like.shape else mtf.broadcast(x, like.shape)

    return tf.nest.map_structure(fit, state, like)
