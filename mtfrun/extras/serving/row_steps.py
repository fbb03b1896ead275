"""Steps of rows that are at positions of their own and have settings of their own.

Dimensions:
  batch: the rows.
  steps: the positions that one call of a program decodes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

import tensorflow as tf

from mtfrun import mtf
from mtfrun.decoding.controls.guide import IMPOSSIBLE
from mtfrun.decoding.controls.processors import CountPenalty, FrequencyPenalty, PresencePenalty
from mtfrun.decoding.controls.rules import DecodedIds, LogitProcessor
from mtfrun.decoding.controls.sampling import gumbel, nucleus
from mtfrun.decoding.decoder import FORBIDDEN, Decoder
from mtfrun.decoding.search import Search

_PENALTIES: Mapping[type[CountPenalty], str] = {
    FrequencyPenalty: "frequency_penalty",
    PresencePenalty: "presence_penalty",
}


def may_differ_by_row(processor: LogitProcessor) -> TypeGuard[CountPenalty]:
    return type(processor) in _PENALTIES


@dataclasses.dataclass(frozen=True)
class SampleRows:
    """`Greedy` and `Sample` with settings that are tensors {batch}.

    Attributes:
      keys: uint32, the bits of each row's key; see `Sample` for the other settings.
      temperature: float32; 0 for the most likely token.
      frequency_penalty, presence_penalty: float32.
      allowed: bool {batch, vocab}, the ids that each row's guide allows.
    """

    vocab: mtf.Dimension
    keys: mtf.Tensor
    lines: mtf.Tensor
    temperature: mtf.Tensor
    top_k: mtf.Tensor
    top_p: mtf.Tensor
    frequency_penalty: mtf.Tensor
    presence_penalty: mtf.Tensor
    allowed: mtf.Tensor

    def process(self, logits: mtf.Tensor, decoded: DecodedIds) -> mtf.Tensor:
        """Returns logits {batch, vocab}, float32, with each row's penalties and guide."""
        logits = mtf.to_float(logits)
        penalties = [getattr(self, name) for name in _PENALTIES.values()]
        has_one = functools.reduce(mtf.logical_or, (mtf.not_equal(x, 0.0) for x in penalties))

        def apply() -> mtf.Tensor:
            penalised = logits
            for make_penalty, penalty in zip(_PENALTIES, penalties, strict=True):
                penalised = make_penalty(penalty)(penalised, decoded)
            return penalised

        penalised = _if_any(has_one, apply, logits)
        return mtf.where(self.allowed, penalised, IMPOSSIBLE, logits.shape)

    def __call__(self, logits: mtf.Tensor, position: mtf.Tensor) -> mtf.Tensor:
        """Returns ids {batch} for logits {batch, vocab} at positions {batch}."""
        logits = mtf.to_float(logits)
        greedy = mtf.argmax(logits, self.vocab)
        is_drawn = mtf.greater(self.temperature, 0.0)
        is_truncated = mtf.logical_or(mtf.greater(self.top_k, 0), mtf.less(self.top_p, 1.0))
        from_all = mtf.logical_and(is_drawn, mtf.logical_not(is_truncated))
        from_some = mtf.logical_and(is_drawn, is_truncated)
        key = mtf.keys_of(self.keys).fold_in(position).fold_in(self.lines)
        scaled = logits / mtf.where(is_drawn, self.temperature, 1.0)

        def draw_from_all() -> mtf.Tensor:
            return mtf.argmax(scaled + gumbel(scaled, key), self.vocab)

        drawn = _if_any(from_all, draw_from_all, greedy)
        drawn_from_some = _if_any(from_some, lambda: self._draw_from_some(scaled, key), greedy)
        return mtf.where(from_some, drawn_from_some, mtf.where(from_all, drawn, greedy))

    def _draw_from_some(self, logits: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
        rank = mtf.Dimension("rank", self.vocab.size)
        logits, ids = mtf.top_k(logits, self.vocab, rank)
        most = mtf.where(mtf.greater(self.top_k, 0), self.top_k, rank.size)
        among = mtf.less(mtf.range(logits.mesh, rank), most, output_shape=logits.shape)
        logits = nucleus(mtf.where(among, logits, FORBIDDEN), rank, self.top_p)
        logits = logits + gumbel(logits, key.fold_in(ids))
        return mtf.gather(ids, mtf.argmax(logits, rank), rank)


def _if_any(
    needs: mtf.Tensor, compute: Callable[[], mtf.Tensor], default: mtf.Tensor
) -> mtf.Tensor:
    """Returns compute() if a row needs it: it may take longer than a step of a small model."""
    if default.mesh.is_distributed:  # DTensor refuses top_k inside of a choice
        return compute()
    result: mtf.Tensor = mtf.cond(mtf.reduce_any(needs), compute, lambda: default)
    return result


def settings_of(search: Search, line: int) -> dict[str, float]:
    """Returns the numbers of `SampleRows` for a row."""
    penalties = dict.fromkeys(_PENALTIES.values(), 0.0)
    for processor in search.controls.processors:
        assert may_differ_by_row(processor) and isinstance(processor.penalty, float)
        penalties[_PENALTIES[type(processor)]] += processor.penalty
    return {
        "keys": int(mtf.random_key(search.seed).bits.numpy()),
        "lines": line,
        "temperature": search.temperature,
        "top_k": search.top_k,
        "top_p": search.top_p,
        **penalties,
    }


class Rows(NamedTuple):
    """The rows of a batch, {batch} int32."""

    ids: mtf.Tensor  # {batch, length}, valid before the position
    position: mtf.Tensor  # the first without an id
    prompt_lengths: mtf.Tensor
    limit: mtf.Tensor  # the largest number of ids; rows at their limit decode nothing


class Steps(NamedTuple):
    """The rows after some steps."""

    step: mtf.Tensor  # int32 scalar, the number of steps
    ids: mtf.Tensor
    position: mtf.Tensor
    log_probs: mtf.Tensor  # {batch, steps} float32, of the ids from the first position on
    ended: mtf.Tensor  # {batch} bool, whether the last id is the end id
    state: Any  # the decoder's


def take_steps(
    decoder: Decoder,
    state: Any,
    rows: Rows,
    choose: SampleRows,
    steps: mtf.Dimension,
    *,
    end_id: int,
) -> Steps:
    """Decodes every row at its own position, until all have ended or reached their limits."""
    mesh, shape = rows.position.mesh, rows.position.shape
    (length,) = rows.ids.shape - shape
    one = mtf.Dimension("block", 1)

    def is_open(now: Steps) -> mtf.Tensor:
        return mtf.logical_and(mtf.less(now.position, rows.limit), mtf.logical_not(now.ended))

    def advance(now: Steps) -> list[Steps]:
        position, counts = now.position, is_open(now)
        previous = mtf.gather(now.ids, position - 1, length)
        previous, at = (mtf.reshape(x, [*shape, one]) for x in (previous, position))
        logits, state = decoder.step(previous, at, now.state)
        logits = mtf.to_float(mtf.gather(logits, 0, one))
        (vocab,) = logits.shape - shape
        written = DecodedIds(now.ids, position, rows.prompt_lengths, (end_id,), rows.limit)
        token = choose(choose.process(logits, written), position)
        log_prob = mtf.gather(logits, token, vocab) - mtf.reduce_logsumexp(logits, vocab)

        def write(x: mtf.Tensor, value: mtf.Tensor, dim: mtf.Dimension, at: mtf.Tensor) -> Any:
            is_new = mtf.equal(mtf.range(mesh, dim), at, output_shape=x.shape)
            return mtf.where(mtf.logical_and(is_new, counts), value, x, output_shape=x.shape)

        ended = mtf.logical_and(counts, mtf.equal(token, end_id))
        return [
            Steps(
                step=now.step + 1,
                ids=write(now.ids, token, length, position),
                position=position + mtf.cast(counts, tf.int32),
                log_probs=write(now.log_probs, log_prob, steps, now.step),
                ended=mtf.logical_or(now.ended, ended),
                state=state,
            )
        ]

    first = Steps(
        mtf.constant(mesh, 0, dtype=tf.int32),
        rows.ids,
        rows.position,
        mtf.zeros(mesh, [*shape, steps]),
        mtf.zeros(mesh, shape, tf.bool),
        state,
    )
    last: Steps
    (last,) = mtf.while_loop(
        lambda now: mtf.logical_and(mtf.less(now.step, steps.size), mtf.reduce_any(is_open(now))),
        advance,
        [first],
        rounds=steps.size,
    )
    return last
