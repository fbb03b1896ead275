"""Sampling of rows with different settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard

import numpy as np

from mtfrun import mtf
from mtfrun.decoding.controls.guide import IMPOSSIBLE, Guide
from mtfrun.decoding.controls.processors import CountPenalty, FrequencyPenalty, PresencePenalty
from mtfrun.decoding.controls.rules import DecodedIds, LogitProcessor
from mtfrun.decoding.controls.sampling import gumbel, nucleus
from mtfrun.decoding.decoder import FORBIDDEN
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


class RowSettings:
    """The settings of the rows of a batch, in numpy arrays, for `SampleRows`."""

    def __init__(self, rows: int, vocab: mtf.Dimension):
        self._vocab = vocab
        self._guides: dict[int, tuple[Guide, int]] = {}  # with their states, by row
        self._all_allowed: dict[int, mtf.Tensor] = {}  # by number of rows
        self._arrays = {
            "keys": np.zeros([rows], np.uint32),
            "lines": np.zeros([rows], np.int32),
            "temperature": np.zeros([rows], np.float32),
            "top_k": np.zeros([rows], np.int32),
            "top_p": np.ones([rows], np.float32),
            **{name: np.zeros([rows], np.float32) for name in _PENALTIES.values()},
        }

    def set(self, row: int, search: Search, line: int, guide: Guide | None) -> None:
        if guide is not None:
            self._guides[row] = guide, guide.first
        penalties = dict.fromkeys(_PENALTIES.values(), 0.0)
        for processor in search.controls.processors:
            assert may_differ_by_row(processor) and isinstance(processor.penalty, float)
            penalties[_PENALTIES[type(processor)]] += processor.penalty
        values = {
            "keys": int(mtf.random_key(search.seed).bits.numpy()),
            "lines": line,
            "temperature": search.temperature,
            "top_k": search.top_k,
            "top_p": search.top_p,
            **penalties,
        }
        for name, value in values.items():
            self._arrays[name][row] = value

    def clear(self, row: int) -> None:
        self._guides.pop(row, None)

    def has_guide(self, rows: Iterable[int]) -> bool:
        return any(row in self._guides for row in rows)

    def advance(self, row: int, ids: np.ndarray) -> bool:
        """Moves a row's guide after its new ids; returns whether the text is complete."""
        if row not in self._guides:
            return False
        guide, state = self._guides[row]
        for token in ids:
            state = int(guide.after[state, guide.class_of_id[token]])
        self._guides[row] = guide, state
        return bool(guide.ends[state])

    def tensors(
        self, mesh: mtf.Mesh, batch: mtf.Dimension, remaining: np.ndarray
    ) -> dict[str, mtf.Tensor]:
        """Returns the arguments of `SampleRows`; `remaining`: int [rows], the ids left to each."""
        settings = {
            name: mtf.import_tf_tensor(mesh, array[: batch.size].copy(), [batch])
            for name, array in self._arrays.items()
        }
        return {**settings, "allowed": self._mask(mesh, batch, remaining)}

    def _mask(self, mesh: mtf.Mesh, batch: mtf.Dimension, remaining: np.ndarray) -> mtf.Tensor:
        shape = [batch, self._vocab]
        if batch.size not in self._all_allowed:
            allowed = np.ones([batch.size, self._vocab.size], bool)
            self._all_allowed[batch.size] = mtf.import_tf_tensor(mesh, allowed, shape)
        if not self.has_guide(range(batch.size)):
            return self._all_allowed[batch.size]
        allowed = np.ones([batch.size, self._vocab.size], bool)
        for row, (guide, state) in self._guides.items():
            if row < batch.size:
                allowed[row] = guide.mask_of(state, int(remaining[row]))
        return mtf.import_tf_tensor(mesh, allowed, shape)
