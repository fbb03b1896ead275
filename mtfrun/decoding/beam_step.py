"""One step of a beam search with a length penalty, as pure functions.

Wu et al. 2016, arXiv:1609.08144, section 7; Vaswani et al. 2017, arXiv:1706.03762, section 6.1.
An active beam has not ended and is extended in every step, a finished one has ended. Both are
ranked by score: the log-probability divided by the length penalty.

Dimensions:
  batch: the rows, one prompt each.
  beam: the beams of a row: as many active beams as places for finished beams.
  length: the positions of a sequence, prompt included.
  vocab: the ids.
  rank: the best next ids of one beam, best first.
  candidates: beam * rank, all continuations that are compared.
  double_beam: the 2 * beam best of these, best first; more where several ids end an output.
  pool: beam + double_beam: the finished beams and the candidates that compete for their places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.rules import is_one_of
from mtfrun.decoding.decoder import INFINITY
from mtfrun.decoding.length_penalty import length_penalty, new_ids


class Active(NamedTuple):
    """The beams that are extended: {batch, beam, length} int32 and {batch, beam} float32.

    `trace`: of `seq`, or (); also in the other tuples.
    """

    seq: mtf.Tensor
    log_probs: mtf.Tensor
    trace: Any = ()


class Finished(NamedTuple):
    """The best beams that have ended; scores {batch, beam}, flags False where a place is empty."""

    seq: mtf.Tensor
    scores: mtf.Tensor
    flags: mtf.Tensor
    trace: Any = ()


class Candidates(NamedTuple):
    """The best continuations of the active beams: twice as many, for half may have ended.

    `seq`: {batch, double_beam, length}; the rest: {batch, double_beam}, the best score first.
    `token`: the last id; `parents`: the index of the beam that each continues.
    """

    seq: mtf.Tensor
    log_probs: mtf.Tensor
    scores: mtf.Tensor
    finished: mtf.Tensor
    token: mtf.Tensor
    parents: mtf.Tensor
    trace: Any = ()


def first_active(prompts: mtf.Tensor, beam: mtf.Dimension) -> Active:
    """Returns beams that hold the prompts; all but beam 0 at -INFINITY, or all would stay equal."""
    batch, length = prompts.shape
    log_probs = mtf.one_hot(
        mtf.zeros(prompts.mesh, [batch], tf.int32), beam, on_value=0.0, off_value=-INFINITY
    )
    return Active(mtf.broadcast(prompts, [batch, beam, length]), log_probs)


def first_finished(mesh: mtf.Mesh, shape: mtf.Shape) -> Finished:
    """Returns empty places for finished beams {batch, beam, length}."""
    batch, beam, _ = shape
    return Finished(
        mtf.zeros(mesh, shape, tf.int32),
        mtf.constant(mesh, -INFINITY, [batch, beam]),
        mtf.zeros(mesh, [batch, beam], tf.bool),
    )


def grow_topk(
    position: mtf.Tensor,
    active: Active,
    logits: mtf.Tensor,
    *,
    vocab: mtf.Dimension,
    penalty: mtf.Tensor,
    end_ids: Sequence[int],
    forced: mtf.Tensor | None = None,
    process: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
    num_prefilter: int = 0,
) -> Candidates:
    """Returns the continuations of the active beams that score best.

    Args:
      position: int32 scalar, the position that is written.
      logits: {batch, beam, vocab} of the position.
      penalty: the divisor of log-probabilities, a scalar or {batch}; see `length_penalty`.
      forced: {batch} int32: where not negative, the id that a row must have there. Its
        log-probability counts as 0.
      process: changes log-probabilities {batch, beam, vocab} before the best are chosen.
      num_prefilter: the number of continuations of each beam that are compared; 0 for as many as
        can be among the best. (Mesh TensorFlow's option, for parity: fewer give other results.)
    """
    batch, beam, length = active.seq.shape
    # As many may end as there are beams and end ids, and as many as there are beams continue.
    double_beam = mtf.Dimension("double_beam", (1 + len(end_ids)) * beam.size)
    # No beam can have more of the best ones than there are, so a top_k of each beam's logits finds
    # all of them, and the softmax is computed for these ids alone.
    rank = mtf.Dimension("rank", num_prefilter or min(double_beam.size, vocab.size))
    logits = mtf.to_float(logits)
    normaliser = mtf.reduce_logsumexp(logits, vocab)
    if process is not None:
        logits, normaliser = process(logits - normaliser), mtf.zeros_like(normaliser)
    best, token = mtf.top_k(logits, vocab, rank)
    log_probs = mtf.transpose(best - normaliser, [batch, beam, rank])
    token = mtf.transpose(token, [batch, beam, rank])
    if forced is not None:
        token, log_probs = _with_forced(forced, token, log_probs, rank)
    log_probs = log_probs + active.log_probs
    flat = mtf.Dimension("candidates", beam.size * rank.size)
    scores, index = mtf.top_k(mtf.reshape(log_probs / penalty, [batch, flat]), flat, double_beam)
    parents = mtf.floordiv(index, rank.size)
    token = mtf.gather(mtf.reshape(token, [batch, flat]), index, flat)
    is_written = mtf.equal(mtf.range(logits.mesh, length), position)
    seq = reorder(active.seq, parents, beam)
    return Candidates(
        seq=mtf.where(is_written, token, seq, output_shape=seq.shape),
        log_probs=scores * penalty,
        scores=scores,
        finished=is_one_of(token, end_ids),
        token=token,
        parents=parents,
        trace=reorder_state(active.trace, parents, beam),
    )


def _with_forced(
    forced: mtf.Tensor, token: mtf.Tensor, log_probs: mtf.Tensor, rank: mtf.Dimension
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Where `forced` is not negative, it has rank 0 and log-probability 0, the rest -INFINITY."""
    is_forced = mtf.greater_equal(forced, 0)
    token = mtf.where(is_forced, forced, token)
    first = mtf.one_hot(
        mtf.constant(token.mesh, 0, dtype=tf.int32), rank, on_value=0.0, off_value=-INFINITY
    )
    return token, mtf.where(is_forced, first, log_probs, output_shape=token.shape)


def grow_active(candidates: Candidates, beam: mtf.Dimension) -> tuple[Active, mtf.Tensor]:
    """Returns the best candidates that have not ended, and their indices {batch, beam} int32."""
    double_beam = candidates.scores.shape[1]
    ended = mtf.to_float(candidates.finished) * INFINITY
    _, chosen = mtf.top_k(candidates.scores - ended, double_beam, beam)
    # Where a prompt ends all candidates, some that have ended are taken, at about -INFINITY.
    log_probs = mtf.gather(candidates.log_probs - ended, chosen, double_beam)
    seq, trace = reorder_state((candidates.seq, candidates.trace), chosen, double_beam)
    return Active(seq, log_probs, trace), chosen


def grow_finished(finished: Finished, candidates: Candidates) -> Finished:
    """Returns the best of the finished beams and the candidates that have ended."""
    _, beam, _ = finished.seq.shape
    ended = candidates.finished
    scores = candidates.scores - mtf.to_float(mtf.logical_not(ended)) * INFINITY

    def join(old: mtf.Tensor, new: mtf.Tensor) -> mtf.Tensor:
        names = [(beam.name, "pool"), ("double_beam", "pool")]
        parts = [mtf.rename_dimension(x, *n) for x, n in zip((old, new), names, strict=True)]
        return mtf.concat(parts, "pool")

    # In this order: of equal scores the older beam stays.
    pool_scores = join(finished.scores, scores)
    pool = pool_scores.shape[1]
    best, chosen = mtf.top_k(pool_scores, pool, beam)
    flags = mtf.cast(join(mtf.to_int32(finished.flags), mtf.to_int32(ended)), tf.int32)
    joined = tf.nest.map_structure(
        join, (finished.seq, finished.trace), (candidates.seq, candidates.trace)
    )
    seq, trace = reorder_state(joined, chosen, pool)
    return Finished(seq, best, mtf.equal(mtf.gather(flags, chosen, pool), 1), trace)


def is_unfinished(
    position: mtf.Tensor,
    active: Active,
    finished: Finished,
    limits: mtf.Tensor,
    *,
    alpha: float,
    stop_early: bool,
    prompt_lengths: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns {batch} bool: whether a row needs another step at `position`.

    With `stop_early` a row ends as soon as no active beam can beat the finished ones, at the
    largest length penalty that it could get. Empty places do not count, so that a row may end with
    fewer than `beam` finished beams. `limits`: see `generate`; `prompt_lengths`: see `new_ids`.
    """
    below_limit = mtf.less(position, limits)
    if not stop_early:
        return below_limit
    beam = active.log_probs.shape[1]
    largest = length_penalty(new_ids(limits, prompt_lengths), alpha)
    best_active = mtf.reduce_first(active.log_probs, beam) / largest
    flags = mtf.to_float(finished.flags)
    lowest = mtf.reduce_min(finished.scores * flags, reduced_dim=beam)
    none_finished = mtf.logical_not(mtf.reduce_any(finished.flags, reduced_dim=beam))
    lowest = lowest - mtf.to_float(none_finished) * INFINITY
    return mtf.logical_and(below_limit, mtf.less_equal(lowest, best_active))


def reorder(x: mtf.Tensor, parents: mtf.Tensor, beam: mtf.Dimension) -> mtf.Tensor:
    """Returns x {batch, beam, ...} at `parents` {batch, beams}, a gather in every row.

    Devices exchange no data, whichever other dimensions are split. `beams` may be `beam` itself.
    The dimensions of x may be in any order, which the result has.
    """
    batch, beams = parents.shape
    shape = mtf.Shape(beams if dim == beam else dim for dim in x.shape)
    inner = [dim for dim in x.shape if dim not in (batch, beam)]
    x = mtf.transpose(x, [batch, beam, *inner])
    reordered: mtf.Tensor = mtf.slicewise(
        lambda x, parents: tf.gather(x, parents, axis=1, batch_dims=1),
        [x, parents],
        output_shape=mtf.Shape([batch, beams, *inner]),
        splittable_dims=[batch, *inner],
    )
    return mtf.transpose(reordered, shape)


def reorder_state(state: Any, parents: mtf.Tensor, beam: mtf.Dimension) -> Any:
    """Returns a nested structure with all tensors that have the dimension `beam` reordered."""
    return tf.nest.map_structure(
        lambda x: reorder(x, parents, beam) if beam in x.shape else x, state
    )
