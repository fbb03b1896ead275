"""Greedy and sampled decoding: one hypothesis a row."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.hypotheses import END_ID, Hypotheses
from mtfrun.decoding.prompt import id_before, ids_before, is_end, start_of
from mtfrun.decoding.sampling import ChooseToken
from mtfrun.decoding.segments import over_positions


class _Progress(NamedTuple):
    """The loop's variables."""

    position: mtf.Tensor  # int32 scalar: the position to be made next
    previous: mtf.Tensor  # {batch} int32: the ids one position earlier
    ids: mtf.Tensor  # {batch, length} int32: all so far, 0 beyond
    log_probs: mtf.Tensor  # {batch} float32: of the ids that were chosen
    ended: mtf.Tensor  # {batch} bool: by an end id
    done: mtf.Tensor  # {batch} bool
    unfinished: mtf.Tensor  # bool scalar
    state: Any


def generate(
    decoder: Decoder,
    prompts: mtf.Tensor,
    choose: ChooseToken,
    *,
    limits: mtf.Tensor | None = None,
    longest_prompt: int | None = None,
    end_id: int = END_ID,
) -> Hypotheses:
    """Returns every prompt continued to its end id or its limit; without the beam dimension.

    Inside `mtf.function`: one compiled program then serves all prompts of one batch and length.
    It stops when all rows are done.

    Args:
      decoder: the model, for these prompts without a beam.
      prompts: {batch, length} int32, of any lengths, padded on the right with 0. An id other than 0
        wins over the model's choice; an end id ends its row, but see `Decoder.given_ends`.
      choose: takes the logits and gives the next ids.
      limits: {batch} int32, how many ids a row has at most, prompt included; 0 for rows that only
        fill up the batch. By default all of `length`.
      longest_prompt: no prompt has more ids; None for `length`. So many positions are read at once,
        where the decoder can do so.
      end_id: the id that ends a row.
    """
    batch, length = prompts.shape
    mesh = prompts.mesh
    if limits is None:
        limits = mtf.constant(mesh, length.size, [batch], tf.int32)
    start = start_of(decoder, prompts, limits, longest_prompt=longest_prompt, end_id=end_id)

    def advance(progress: _Progress, step: StepFunction) -> _Progress:
        position = progress.position
        logits, state = step(progress.previous, position, progress.state)
        logits = mtf.to_float(logits)
        (vocab,) = logits.shape - batch
        forced = mtf.gather(prompts, position, length)
        is_forced = mtf.not_equal(forced, 0)
        token = mtf.where(is_forced, forced, choose(logits, position))
        chosen = mtf.gather(logits, token, vocab) - mtf.reduce_logsumexp(logits, vocab)
        counts = mtf.logical_not(mtf.logical_or(progress.done, is_forced))
        token = mtf.where(progress.done, 0, token)
        ended = mtf.logical_or(progress.ended, is_end(start, token, position, end_id))
        done = mtf.logical_or(ended, mtf.greater_equal(position + 1, limits))
        here = mtf.equal(mtf.range(mesh, length), position)
        return _Progress(
            position=position + 1,
            previous=token,
            ids=mtf.where(here, token, progress.ids, output_shape=prompts.shape),
            log_probs=progress.log_probs + mtf.where(counts, chosen, 0.0),
            ended=ended,
            done=done,
            unfinished=mtf.logical_not(mtf.reduce_all(done)),
            state=state,
        )

    position = start.position
    done = mtf.less_equal(limits, position)
    first = _Progress(
        position=position,
        previous=id_before(prompts, position),
        ids=ids_before(prompts, position),
        log_probs=mtf.zeros(mesh, [batch]),
        ended=mtf.zeros(mesh, [batch], tf.bool),
        done=done,
        unfinished=mtf.logical_not(mtf.reduce_all(done)),
        state=(),
    )
    last = over_positions(start, length, first, advance)
    return Hypotheses(last.ids, last.log_probs, last.ended)
