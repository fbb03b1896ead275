"""One step of a beam search with a length penalty, as pure functions.

Wu et al. 2016, arXiv:1609.08144, section 7; Vaswani et al. 2017, arXiv:1706.03762, section 6.1.
Alive sequences have not ended; finished ones have, and are ranked by score.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.hypotheses import INFINITY
from mtfrun.decoding.reordering import reorder


class Alive(NamedTuple):
    """The sequences that are continued."""

    seq: mtf.Tensor  # {batch, beam, length} int32
    log_probs: mtf.Tensor  # {batch, beam} float32


class Finished(NamedTuple):
    """The best sequences that have ended; empty places have flags of False."""

    seq: mtf.Tensor  # {batch, beam, length} int32
    scores: mtf.Tensor  # {batch, beam} float32
    flags: mtf.Tensor  # {batch, beam} bool


class Candidates(NamedTuple):
    """The best continuations of the alive sequences: twice as many, for half may have ended."""

    seq: mtf.Tensor  # {batch, double_beam, length} int32
    log_probs: mtf.Tensor  # {batch, double_beam} float32
    scores: mtf.Tensor  # {batch, double_beam} float32, best first
    finished: mtf.Tensor  # {batch, double_beam} bool
    token: mtf.Tensor  # {batch, double_beam} int32: the last id
    parents: mtf.Tensor  # {batch, double_beam} int32: the beam that each continues


def length_penalty(length: mtf.Tensor, alpha: float) -> mtf.Tensor:
    """Returns ((5 + length) / 6) ** alpha, Wu et al., equation 14; `length` an integer tensor."""
    return mtf.pow((mtf.to_float(length) + 5.0) * (1.0 / 6.0), alpha)


def first_alive(prompts: mtf.Tensor, beam: mtf.Dimension) -> Alive:
    """Returns prompts {batch, length} as sequences of all beams; all but beam 0 start hopeless.

    Otherwise all beams would be the same.
    """
    batch, length = prompts.shape
    log_probs = mtf.one_hot(
        mtf.zeros(prompts.mesh, [batch], tf.int32), beam, on_value=0.0, off_value=-INFINITY
    )
    return Alive(mtf.broadcast(prompts, [batch, beam, length]), log_probs)


def first_finished(mesh: mtf.Mesh, shape: mtf.Shape) -> Finished:
    """Returns empty places for sequences {batch, beam, length}."""
    batch, beam, _ = shape
    return Finished(
        mtf.zeros(mesh, shape, tf.int32),
        mtf.constant(mesh, -INFINITY, [batch, beam]),
        mtf.zeros(mesh, [batch, beam], tf.bool),
    )


def grow_topk(
    position: mtf.Tensor,
    alive: Alive,
    logits: mtf.Tensor,
    *,
    vocab: mtf.Dimension,
    alpha: float,
    end_id: int,
    forced: mtf.Tensor | None = None,
    known: mtf.Tensor | None = None,
    num_prefilter: int = 0,
) -> Candidates:
    """Returns the continuations of the alive sequences that score best.

    Args:
      position: int32 scalar, the position that is written.
      alive: the sequences up to there.
      logits: {batch, beam, vocab} of the position.
      vocab: the dimension of the ids.
      alpha: of the length penalty.
      end_id: the id that ends a sequence.
      forced: {batch} int32: where not 0, the id that a row must have here. It costs nothing.
      known: {batch} int32: so many ids of a row are its prompt, which the length penalty does not
        count: they cost nothing, and behind a long one it would be the same for all lengths.
        By default 0.
      num_prefilter: take this many continuations of each beam into consideration; 0 for as many as
        can matter. (Mesh TensorFlow's option, for parity: fewer give other results.)
    """
    batch, beam, length = alive.seq.shape
    double_beam = mtf.Dimension("double_beam", 2 * beam.size)
    # No beam can have more than 2 * beam of the best ones, so a top_k of each beam's logits finds
    # all: the softmax need not be made for the rest.
    rank = mtf.Dimension("rank", num_prefilter or min(double_beam.size, vocab.size))
    logits = mtf.to_float(logits)
    best, token = mtf.top_k(logits, vocab, rank)
    log_probs = mtf.transpose(best - mtf.reduce_logsumexp(logits, vocab), [batch, beam, rank])
    token = mtf.transpose(token, [batch, beam, rank])
    if forced is not None:
        is_forced = mtf.not_equal(forced, 0)
        token = mtf.where(is_forced, forced, token)
        first = mtf.one_hot(
            mtf.constant(logits.mesh, 0, dtype=tf.int32), rank, on_value=0.0, off_value=-INFINITY
        )
        log_probs = mtf.where(is_forced, first, log_probs, output_shape=token.shape)
    log_probs = log_probs + alive.log_probs
    penalty = length_penalty(_new_ids(position + 1, known), alpha)
    flat = mtf.Dimension("candidates", beam.size * rank.size)
    scores, index = mtf.top_k(mtf.reshape(log_probs / penalty, [batch, flat]), flat, double_beam)
    parents = mtf.floordiv(index, rank.size)
    token = mtf.gather(mtf.reshape(token, [batch, flat]), index, flat)
    here = mtf.equal(mtf.range(logits.mesh, length), position)
    seq = reorder(alive.seq, parents, beam)
    return Candidates(
        seq=mtf.where(here, token, seq, output_shape=seq.shape),
        log_probs=scores * penalty,
        scores=scores,
        finished=mtf.equal(token, end_id),
        token=token,
        parents=parents,
    )


def grow_alive(candidates: Candidates, beam: mtf.Dimension) -> tuple[Alive, mtf.Tensor]:
    """Returns the best candidates that have not ended, and which those are: {batch, beam} int32."""
    double_beam = candidates.scores.shape[1]
    ended = mtf.to_float(candidates.finished) * INFINITY
    _, chosen = mtf.top_k(candidates.scores - ended, double_beam, beam)
    # Where a prompt ends all of them, one that has ended stays, without hope.
    log_probs = mtf.gather(candidates.log_probs - ended, chosen, double_beam)
    return Alive(reorder(candidates.seq, chosen, double_beam), log_probs), chosen


def grow_finished(finished: Finished, candidates: Candidates) -> Finished:
    """Returns the best of the finished sequences and the candidates that have ended."""
    batch, beam, _ = finished.seq.shape
    ended = candidates.finished
    scores = candidates.scores - mtf.to_float(mtf.logical_not(ended)) * INFINITY

    def joined(old: mtf.Tensor, new: mtf.Tensor) -> mtf.Tensor:
        names = [(beam.name, "pool"), ("double_beam", "pool")]
        parts = [mtf.rename_dimension(x, *n) for x, n in zip((old, new), names, strict=True)]
        return mtf.concat(parts, "pool")

    # In this order: of equal scores the older one stays.
    pool_scores = joined(finished.scores, scores)
    pool = pool_scores.shape[1]
    best, chosen = mtf.top_k(pool_scores, pool, beam)
    flags = mtf.cast(joined(mtf.to_int32(finished.flags), mtf.to_int32(ended)), tf.int32)
    return Finished(
        reorder(joined(finished.seq, candidates.seq), chosen, pool),
        best,
        mtf.equal(mtf.gather(flags, chosen, pool), 1),
    )


def is_finished(
    position: mtf.Tensor,
    alive: Alive,
    finished: Finished,
    limits: mtf.Tensor,
    *,
    alpha: float,
    stop_early: bool,
    known: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns {batch} bool: whether a row is to go on.

    With `stop_early` a row ends as soon as no alive sequence can beat the finished ones, at the
    largest length penalty that it could get. Empty places do not count, so that fewer than `beam`
    sequences may come out.

    Args:
      position: int32 scalar, the position to be made next.
      alive, finished: the sequences up to there.
      limits: {batch} int32: the number of ids that a row has at most.
      alpha: of the length penalty.
      stop_early: see above.
      known: see `grow_topk`.
    """
    goes_on = mtf.less(position, limits)
    if not stop_early:
        return goes_on
    beam = alive.log_probs.shape[1]
    largest = length_penalty(_new_ids(limits, known), alpha)
    best_alive = mtf.reduce_first(alive.log_probs, beam) / largest
    flags = mtf.to_float(finished.flags)
    lowest = mtf.reduce_min(finished.scores * flags, reduced_dim=beam)
    none_finished = mtf.logical_not(mtf.reduce_any(finished.flags, reduced_dim=beam))
    lowest = lowest - mtf.to_float(none_finished) * INFINITY
    return mtf.logical_and(goes_on, mtf.less_equal(lowest, best_alive))


def _new_ids(length: mtf.Tensor, known: mtf.Tensor | None) -> mtf.Tensor:
    """Returns how many ids of sequences of a length follow their prompts, which may be longer."""
    return length if known is None else mtf.maximum(length - known, 0)
