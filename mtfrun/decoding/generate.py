"""Greedy and sampled decoding: one hypothesis a row."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.hypotheses import END_ID, Hypotheses
from mtfrun.decoding.position_loop import over_positions
from mtfrun.decoding.prompt import Start, forced_ids, id_before, ids_before, is_end, start_of
from mtfrun.decoding.sampling import ChooseToken


def generate(
    decoder: Decoder,
    prompts: mtf.Tensor,
    choose: ChooseToken,
    *,
    limits: mtf.Tensor | None = None,
    longest_prompt: int | None = None,
    end_id: int = END_ID,
    padding_id: int = 0,
) -> Hypotheses:
    """Returns every prompt continued to its end id or its limit; without the beam dimension.

    To be called inside `mtf.function`: one compiled program serves all prompts of one batch and
    length. It stops when all rows have ended.

    Args:
      decoder: the model, for these prompts without a beam.
      prompts: {batch, length} int32, of any lengths, padded on the right. Where an id is not
        padding, it replaces the model's choice; an end id ends its row, but see
        `Decoder.ends_in_prompts`.
      limits: {batch} int32, the largest number of ids of a row, prompt included; 0 for rows that
        pad the batch. By default the size of `length`.
      longest_prompt: the largest number of ids in a prompt, by default the size of `length`: so
        many positions are read in one pass, where the decoder can do so.
    """
    batch, length = prompts.shape
    prompts = forced_ids(prompts, padding_id)
    if limits is None:
        limits = mtf.constant(prompts.mesh, length.size, [batch], tf.int32)
    start = start_of(decoder, prompts, limits, longest_prompt=longest_prompt, end_id=end_id)
    loop = _Loop(choose, prompts, start, limits, end_id)
    last = over_positions(start, length, loop.first(), loop.advance)
    return Hypotheses(last.ids, last.log_probs, last.ended)


class _Progress(NamedTuple):
    """The loop's variables; `done` rows have ended or reached their limit."""

    position: mtf.Tensor
    previous: mtf.Tensor
    ids: mtf.Tensor
    log_probs: mtf.Tensor
    ended: mtf.Tensor
    done: mtf.Tensor
    unfinished: mtf.Tensor
    state: Any


@dataclasses.dataclass(frozen=True)
class _Loop:
    """`prompts` {batch, length} int32: see `forced_ids`."""

    choose: ChooseToken
    prompts: mtf.Tensor
    start: Start
    limits: mtf.Tensor
    end_id: int

    def first(self) -> _Progress:
        """Returns the variables before the first step, without the decoder's state."""
        batch, _ = self.prompts.shape
        mesh, position = self.prompts.mesh, self.start.position
        done = mtf.less_equal(self.limits, position)
        return _Progress(
            position=position,
            previous=id_before(self.prompts, position),
            ids=ids_before(self.prompts, position),
            log_probs=mtf.zeros(mesh, [batch]),
            ended=mtf.zeros(mesh, [batch], tf.bool),
            done=done,
            unfinished=mtf.logical_not(mtf.reduce_all(done)),
            state=(),
        )

    def advance(self, progress: _Progress, step: StepFunction) -> _Progress:
        batch, length = self.prompts.shape
        position = progress.position
        logits, state = step(progress.previous, position, progress.state)
        logits = mtf.to_float(logits)
        (vocab,) = logits.shape - batch
        forced = mtf.gather(self.prompts, position, length)
        is_forced = mtf.greater_equal(forced, 0)
        token = mtf.where(is_forced, forced, self.choose(logits, position))
        log_prob = mtf.gather(logits, token, vocab) - mtf.reduce_logsumexp(logits, vocab)
        counts = mtf.logical_not(mtf.logical_or(progress.done, is_forced))
        token = mtf.where(progress.done, 0, token)
        is_last = is_end(self.start, token, position, self.end_id)
        ended = mtf.logical_or(progress.ended, is_last)
        done = mtf.logical_or(ended, mtf.greater_equal(position + 1, self.limits))
        is_written = mtf.equal(mtf.range(self.prompts.mesh, length), position)
        return _Progress(
            position=position + 1,
            previous=token,
            ids=mtf.where(is_written, token, progress.ids, output_shape=self.prompts.shape),
            log_probs=progress.log_probs + mtf.where(counts, log_prob, 0.0),
            ended=ended,
            done=done,
            unfinished=mtf.logical_not(mtf.reduce_all(done)),
            state=state,
        )
