"""Traces: the log-probabilities of the ids of outputs, and of the most likely ids beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf


class Trace(NamedTuple):
    """What the model, without processors and temperature, thinks of the ids {rows, length}.

    Attributes:
      log_probs: {rows, length} float32, of each id, in nats; 0 where none is written.
      top_ids: {rows, length, top} int32, the most likely ids at its position, the best first.
      top_log_probs: {rows, length, top} float32.
    """

    log_probs: mtf.Tensor
    top_ids: mtf.Tensor
    top_log_probs: mtf.Tensor


def empty_trace(mesh: mtf.Mesh, shape: mtf.ShapeLike, number: int | None) -> Any:
    """Returns the Trace of no ids {rows, length} with so many others each; () if `number` is None.

    As loop variables and results, one () takes the place of a Trace.
    """
    if number is None:
        return ()
    shape = mtf.convert_to_shape(shape)
    top = mtf.Dimension("top", max(1, number))
    return Trace(
        mtf.zeros(mesh, shape), mtf.zeros(mesh, shape + top, tf.int32), mtf.zeros(mesh, shape + top)
    )


def trace_of_step(logits: mtf.Tensor, token: mtf.Tensor, trace: Any) -> Any:
    """Returns the Trace without `length` of ids {rows} that were chosen from logits {rows, vocab}.

    `trace` is the trace of the loop, with as many others; () for none.
    """
    if not trace:
        return ()
    (vocab,) = logits.shape - token.shape
    top = trace.top_ids.shape.get_dim_by_name("top")
    normaliser = mtf.reduce_logsumexp(logits, vocab)
    best, ids = mtf.top_k(logits, vocab, top)
    return Trace(mtf.gather(logits, token, vocab) - normaliser, ids, best - normaliser)


def write_trace(trace: Any, step: Any, where: mtf.Tensor) -> Any:
    """Returns a trace with what a step adds `where`, bool {length} or {rows, length}."""
    return tf.nest.map_structure(
        lambda new, old: mtf.where(where, new, old, output_shape=old.shape), step, trace
    )
