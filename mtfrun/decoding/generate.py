"""Decoding position by position: the loop, and one hypothesis a row, greedy or sampled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, Unpack, cast

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.sampling import ChooseToken
from mtfrun.decoding.decoder import (
    Decoder,
    Hypotheses,
    StepFunction,
    empty_trace,
    trace_of_step,
    write_trace,
)
from mtfrun.decoding.prompts import PromptOptions, Prompts, read_prompts

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
