"""The loop of a beam search."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.beam_search import (
    Alive,
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
from mtfrun.decoding.prompt import id_before, ids_before, is_end, start_of
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


def beam_search(
    decoder: Decoder,
    prompts: mtf.Tensor,
    beam: mtf.Dimension,
    vocab: mtf.Dimension,
    *,
    limits: mtf.Tensor | None = None,
    longest_prompt: int | None = None,
    alpha: float = 0.6,
    stop_early: bool = True,
    independent_rows: bool = True,
    num_prefilter: int = 0,
    end_id: int = END_ID,
) -> Hypotheses:
    """Returns the best sequences of every row, those that continue its prompt.

    Inside `mtf.function`: one compiled program serves all prompts of one batch and length. It stops
    when all rows are done.

    Args:
      decoder: the model, for these prompts and this beam.
      prompts: {batch, length} int32, of any lengths, padded on the right with 0. An id other than 0
        is what all sequences have there, at no cost; an end id ends the row, but see
        `Decoder.given_ends`.
      beam: the dimension of the hypotheses; fewer than `vocab`.
      vocab: the dimension of the ids.
      limits: {batch} int32, how many ids a row has at most, prompt included; 0 for rows that only
        fill up the batch. By default all of `length`.
      longest_prompt: no prompt has more ids; None for `length`. So many positions are read at once,
        where the decoder can do so.
      alpha: of the length penalty; 0 for none.
      stop_early: end a row when no alive sequence can beat its finished ones.
      independent_rows: leave a row as it is once it is done. Otherwise, as in Mesh TensorFlow, all
        rows go on until the last one is done, and what fills the places behind the best depends on
        the other rows of the batch.
      num_prefilter: see `grow_topk`.
      end_id: the id that ends a sequence.
    """
    batch, length = prompts.shape
    mesh = prompts.mesh
    shape = mtf.Shape([batch, beam, length])
    if limits is None:
        limits = mtf.constant(mesh, length.size, [batch], tf.int32)
    start = start_of(decoder, prompts, limits, longest_prompt=longest_prompt, end_id=end_id)

    def check(position: mtf.Tensor, alive: Alive, finished: Finished) -> mtf.Tensor:
        return is_finished(position, alive, finished, limits, alpha=alpha, stop_early=stop_early)

    def advance(progress: _Progress, step: StepFunction) -> _Progress:
        position = progress.position
        forced = mtf.gather(prompts, position, length)
        logits, state = step(progress.previous, position, progress.state)
        candidates = grow_topk(
            position,
            progress.alive,
            logits,
            vocab=vocab,
            alpha=alpha,
            end_id=end_id,
            forced=forced,
            num_prefilter=num_prefilter,
        )
        candidates = candidates._replace(finished=is_end(start, candidates.token, position, end_id))
        # A continuation of what was hopeless from the start has not finished anything.
        hopeful = mtf.greater(candidates.log_probs, -INFINITY / 2)
        ended = candidates._replace(finished=mtf.logical_and(candidates.finished, hopeful))
        alive, chosen = grow_alive(candidates, beam)
        finished = grow_finished(progress.finished, ended)
        double_beam = candidates.scores.shape[1]
        parents = mtf.gather(candidates.parents, chosen, double_beam)
        if independent_rows:
            alive, finished = _where(
                progress.goes_on, (alive, finished), (progress.alive, progress.finished)
            )
        goes_on = check(position + 1, alive, finished)
        if independent_rows:
            goes_on = mtf.logical_and(goes_on, progress.goes_on)
        return _Progress(
            position=position + 1,
            previous=mtf.gather(candidates.token, chosen, double_beam),
            alive=alive,
            finished=finished,
            goes_on=goes_on,
            unfinished=mtf.reduce_any(goes_on),
            state=reorder_state(state, parents, beam),
        )

    position = start.position
    alive = first_alive(ids_before(prompts, position), beam)
    finished = first_finished(mesh, shape)
    goes_on = check(position, alive, finished)
    first = _Progress(
        position=position,
        previous=mtf.broadcast(id_before(prompts, position), [batch, beam]),
        alive=alive,
        finished=finished,
        goes_on=goes_on,
        unfinished=mtf.reduce_any(goes_on),
        state=(),
    )
    last = over_positions(start, length, first, advance)
    return _result(last.alive, last.finished, beam)


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
