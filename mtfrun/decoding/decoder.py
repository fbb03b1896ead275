"""The interface of a model to decoding, a step function and its state; hypotheses and traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mtfrun import mtf

END_ID = 1

# -INFINITY stands for minus infinity in scores, as in Mesh TensorFlow: sums of it are finite.
INFINITY = 1e7
# The logit of an id that must not be chosen; finite, for the sake of gradients and sums.
FORBIDDEN = -1e9
# Lower scores belong to empty places.
EMPTY_BELOW = -1e6

# (ids {batch...} of the position before, position, state) -> (logits {batch..., vocab}, next
# state). The logits' dimensions may have any order. At position 0 the ids are 0. The position is an
# int32 scalar, the state a nested structure of tensors. For blocks see `Decoder.in_blocks`.
StepFunction = Callable[[mtf.Tensor, mtf.Tensor, Any], tuple[mtf.Tensor, Any]]


class Beginning(NamedTuple):
    """A common beginning of all rows of a batch, already read by a decoder with `in_blocks`.

    Attributes:
      state: the initial state of its `at_once`, without the dimension of the rows.
      length: int32 scalar, the number of ids.
      remaining: the largest number of ids of a prompt after them, which are read in one pass; with
        `length` at most the positions of a row.
    """

    state: Any
    length: mtf.Tensor
    remaining: int


class Decoder(NamedTuple):
    """A model that decodes one position after the other, for rows {batch} or {batch, beam}.

    Attributes:
      step: decodes one position.
      initial_state: the state before position 0. A beam search reorders the tensors that have its
        beam dimension; tensors that all beams share, such as an encoded input, lack it.
      within: a function; within(n) returns a decoder of the first n positions, with shorter caches
        and cheaper steps. Its initial state is this decoder's, cut off.
      at_once: at_once(n, prompt_lengths) prefills: it returns a decoder that has read, in one pass
        over n positions, the first `prompt_lengths` {batch} int32 ids of each row; steps at these
        positions do not change the row's state. None: steps read the prompts.
      prefix: prompts must be read in one pass, as in a prefix language model, where the prompt's
        positions attend to each other.
      ends_in_prompts: an end id in a prompt ends the inputs, before the targets, not the row.
      in_blocks: in_blocks() returns a decoder before position 0; its steps may take ids {batch,
        block} and the consecutive positions {batch, block}, and return logits {batch, block,
        vocab}. Positions may be repeated: the state depends on the last time only, and steps see
        no later positions. `within(n)` may be larger than the length: blocks must not exceed it.
      after: a function; after(beginning) returns a decoder with an `at_once` for the ids behind it.
    """

    step: StepFunction
    initial_state: Any
    within: Callable[[int], Decoder] | None = None
    at_once: Callable[[int, mtf.Tensor], Decoder] | None = None
    prefix: bool = False
    ends_in_prompts: bool = False
    in_blocks: Callable[[], Decoder] | None = None
    after: Callable[[Beginning], Decoder] | None = None

    def step_by_step(self) -> Decoder:
        """Returns a decoder that reads prompts step by step; this one if `prefix`."""
        return self if self.prefix else self._replace(at_once=None)


class Trace(NamedTuple):
    """The model's log-probabilities, in nats, before processors and temperature.

    Attributes:
      log_probs: {rows, length} float32, of each id; 0 where no id is written.
      top_ids: {rows, length, top} int32, the most likely ids at its position, the best first.
      top_log_probs: {rows, length, top} float32.
    """

    log_probs: mtf.Tensor
    top_ids: mtf.Tensor
    top_log_probs: mtf.Tensor


def empty_trace(mesh: mtf.Mesh, shape: mtf.ShapeLike, number: int | None) -> Any:
    """Returns a Trace of zeros {rows, length} with `number` top ids; () if `number` is None."""
    if number is None:
        return ()
    shape = mtf.convert_to_shape(shape)
    top = mtf.Dimension("top", max(1, number))
    return Trace(
        mtf.zeros(mesh, shape), mtf.zeros(mesh, shape + top, tf.int32), mtf.zeros(mesh, shape + top)
    )


def trace_of_step(logits: mtf.Tensor, token: mtf.Tensor, trace: Any) -> Any:
    """Returns the Trace without `length` of ids {rows} that were chosen from logits {rows, vocab}.

    `trace`: the trace of the loop, or ().
    """
    if not trace:
        return ()
    (vocab,) = logits.shape - token.shape
    top = trace.top_ids.shape.get_dim_by_name("top")
    normaliser = mtf.reduce_logsumexp(logits, vocab)
    best, ids = mtf.top_k(logits, vocab, top)
    return Trace(mtf.gather(logits, token, vocab) - normaliser, ids, best - normaliser)


def write_trace(trace: Any, step: Any, where: mtf.Tensor) -> Any:
    """Returns a trace with a step's values `where`, bool {length} or {rows, length}."""
    return tf.nest.map_structure(
        lambda new, old: mtf.where(where, new, old, output_shape=old.shape), step, trace
    )


class Hypotheses(NamedTuple):
    """Sequences for every row of a batch, best first.

    Attributes:
      ids: {batch, beam, length} int32, 0 after the end id.
      scores: {batch, beam} float32: of a beam search the log-probability divided by the length
        penalty (not divided in rows without a finished sequence), else the log-probability of all
        ids after the prompt.
      finished: {batch, beam} bool.
      trace: a `Trace` of the ids, if it was asked for, else ().
    """

    ids: mtf.Tensor
    scores: mtf.Tensor
    finished: mtf.Tensor
    trace: Any = ()

    def with_beam(self, beam: mtf.Dimension) -> Hypotheses:
        """Adds a beam dimension of size 1 to the hypotheses of a method without beams."""
        (batch,) = self.scores.shape - beam
        hypotheses: Hypotheses = tf.nest.map_structure(
            lambda x: mtf.reshape(x, [batch, beam, *(x.shape - [batch, beam])]), self
        )
        return hypotheses


class Hypothesis(NamedTuple):
    """One hypothesis of a row; ids [length], and a `Trace` of arrays [length, ...] or ()."""

    ids: np.ndarray
    score: float
    finished: bool
    trace: Any = ()


def n_best(hypotheses: Hypotheses, row: int) -> list[Hypothesis]:
    """Returns the hypotheses of a row, of arrays [batch, beam, ...], without empty places."""
    ids, scores, finished, trace = tf.nest.map_structure(lambda x: x[row], hypotheses)
    return [
        Hypothesis(
            ids[i],
            float(scores[i]),
            bool(finished[i]),
            tf.nest.map_structure(lambda x, i=i: x[i], trace),
        )
        for i in np.flatnonzero(scores > EMPTY_BELOW)
    ]
