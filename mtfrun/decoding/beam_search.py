"""Beam search: the best continuations of prompts."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.beam_step import (
    Alive,
    Candidates,
    Finished,
    first_alive,
    first_finished,
    grow_alive,
    grow_finished,
    grow_topk,
    is_finished,
)
from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.hypotheses import END_ID, INFINITY, Hypotheses
from mtfrun.decoding.prompt import Start, id_before, ids_before, is_end, start_of
from mtfrun.decoding.reordering import reorder_state
from mtfrun.decoding.segments import over_positions


class _Progress(NamedTuple):
    """The loop's variables."""

    position: mtf.Tensor  # int32 scalar: the position to be made next
    previous: mtf.Tensor  # {batch, beam} int32: the ids one position earlier
    alive: Alive
    finished: Finished
    goes_on: mtf.Tensor  # {batch} bool
    unfinished: mtf.Tensor  # bool scalar
    state: Any


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Looks for the sequences of the highest log-probability, divided by a length penalty.

    alpha: of the length penalty, which does not count the ids of prompts; 0 for none.
    stop_early: end a row when no alive sequence can beat its finished ones.
    independent_rows: leave a row as it is once it is done. Otherwise, as in Mesh TensorFlow, all
      rows go on until the last one is done, and what fills the places behind the best depends on
      the other rows of the batch.
    num_prefilter: see `grow_topk`.
    """

    alpha: float = 0.6
    stop_early: bool = True
    independent_rows: bool = True
    num_prefilter: int = 0

    def __call__(
        self,
        decoder: Decoder,
        prompts: mtf.Tensor,
        beam: mtf.Dimension,
        vocab: mtf.Dimension,
        *,
        limits: mtf.Tensor | None = None,
        longest_prompt: int | None = None,
        end_id: int = END_ID,
    ) -> Hypotheses:
        """Returns the best sequences of every row, those that continue its prompt.

        Inside `mtf.function`: one compiled program serves all prompts of one batch and length. It
        stops when all rows are done.

        Args:
          decoder: the model, for these prompts and this beam.
          prompts: {batch, length} int32, of any lengths, padded on the right with 0. An id other
            than 0 is what all sequences have there, at no cost; an end id ends the row, but see
            `Decoder.given_ends`.
          beam: the dimension of the hypotheses; fewer than `vocab`.
          vocab: the dimension of the ids.
          limits: {batch} int32, how many ids a row has at most, prompt included; 0 for rows that
            only fill up the batch. By default all of `length`.
          longest_prompt: no prompt has more ids; None for `length`. So many positions are read at
            once, where the decoder can do so.
          end_id: the id that ends a sequence.
        """
        if limits is None:
            limits = mtf.constant(prompts.mesh, prompts.shape[1].size, [prompts.shape[0]], tf.int32)
        start = start_of(decoder, prompts, limits, longest_prompt=longest_prompt, end_id=end_id)
        loop = _Loop(self, prompts, start, beam, vocab, limits, end_id)
        last = over_positions(start, prompts.shape[1], loop.first(), loop.advance)
        return _result(last.alive, last.finished, beam)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """A search of certain prompts: the arguments of `BeamSearch`, and where it starts."""

    search: BeamSearch
    prompts: mtf.Tensor
    start: Start
    beam: mtf.Dimension
    vocab: mtf.Dimension
    limits: mtf.Tensor
    end_id: int

    def first(self) -> _Progress:
        """Returns the variables before the first step, without the decoder's state."""
        batch, length = self.prompts.shape
        position = self.start.position
        alive = first_alive(ids_before(self.prompts, position), self.beam)
        finished = first_finished(self.prompts.mesh, mtf.Shape([batch, self.beam, length]))
        goes_on = self._goes_on(position, alive, finished)
        return _Progress(
            position=position,
            previous=mtf.broadcast(id_before(self.prompts, position), [batch, self.beam]),
            alive=alive,
            finished=finished,
            goes_on=goes_on,
            unfinished=mtf.reduce_any(goes_on),
            state=(),
        )

    def advance(self, progress: _Progress, step: StepFunction) -> _Progress:
        """Returns the variables after one more position."""
        position = progress.position
        logits, state = step(progress.previous, position, progress.state)
        candidates = self._candidates(position, progress.alive, logits)
        # A continuation of what was hopeless from the start has not finished anything.
        hopeful = mtf.greater(candidates.log_probs, -INFINITY / 2)
        ended = candidates._replace(finished=mtf.logical_and(candidates.finished, hopeful))
        alive, chosen = grow_alive(candidates, self.beam)
        finished = grow_finished(progress.finished, ended)
        if self.search.independent_rows:
            alive, finished = _where(
                progress.goes_on, (alive, finished), (progress.alive, progress.finished)
            )
        goes_on = self._goes_on(position + 1, alive, finished)
        if self.search.independent_rows:
            goes_on = mtf.logical_and(goes_on, progress.goes_on)
        double_beam = candidates.scores.shape[1]
        parents = mtf.gather(candidates.parents, chosen, double_beam)
        return _Progress(
            position=position + 1,
            previous=mtf.gather(candidates.token, chosen, double_beam),
            alive=alive,
            finished=finished,
            goes_on=goes_on,
            unfinished=mtf.reduce_any(goes_on),
            state=reorder_state(state, parents, self.beam),
        )

    def _candidates(self, position: mtf.Tensor, alive: Alive, logits: mtf.Tensor) -> Candidates:
        """Returns the best continuations, with those that end their row."""
        candidates = grow_topk(
            position,
            alive,
            logits,
            vocab=self.vocab,
            alpha=self.search.alpha,
            end_id=self.end_id,
            forced=mtf.gather(self.prompts, position, self.prompts.shape[1]),
            known=self.start.known,
            num_prefilter=self.search.num_prefilter,
        )
        ends = is_end(self.start, candidates.token, position, self.end_id)
        return candidates._replace(finished=ends)

    def _goes_on(self, position: mtf.Tensor, alive: Alive, finished: Finished) -> mtf.Tensor:
        """Returns {batch} bool: whether a row is to go on."""
        return is_finished(
            position,
            alive,
            finished,
            self.limits,
            alpha=self.search.alpha,
            stop_early=self.search.stop_early,
            known=self.start.known,
        )


def _where(condition: mtf.Tensor, yes: Any, no: Any) -> Any:
    """Returns a nested structure of tensors, chosen row by row; condition: {batch}."""
    return tf.nest.map_structure(
        lambda y, n: mtf.where(condition, y, n, output_shape=n.shape), yes, no
    )


def _result(alive: Alive, finished: Finished, beam: mtf.Dimension) -> Hypotheses:
    """Returns the finished sequences; where a row has none, the alive ones."""
    any_finished = mtf.reduce_any(finished.flags, reduced_dim=beam)
    ids, scores = _where(
        any_finished, (finished.seq, finished.scores), (alive.seq, alive.log_probs)
    )
    return Hypotheses(ids, scores, finished.flags)
