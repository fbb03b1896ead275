"""Rows of running text that an objective makes inputs and targets of."""

from __future__ import annotations

import numpy as np

from mtfrun.data.collate import indices_within
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives import FeatureLengths, Objective, RawText
from mtfrun.data.rows import Batch, Rows, Selection
from mtfrun.data.token_cache import TokenCache
from mtfrun.data.vocabularies import Vocabulary


class RawStream:
    """The texts of a cache's only feature, joined without ends and cut every `length` ids.

    As for T5's objectives: Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4.
    """

    def __init__(self, cache: TokenCache, length: int):
        self._tokens = cache.tokens
        self._ends = cache.ends.reshape(-1)
        self._length = length
        self._size = cache.tokens.size - self._ends.size

    def __len__(self) -> int:
        return -(-self._size // self._length)

    def take(self, numbers: np.ndarray) -> RawText:
        batch, length = len(numbers), self._length
        starts = numbers * length
        lengths = np.minimum(self._size - starts, length)
        # An id stands in the cache after as many ends as there are documents before it.
        first = self._documents_before(starts)
        counts = self._documents_before(starts + lengths - 1) - first
        row = np.repeat(np.arange(batch), counts)
        nth = indices_within(counts)
        columns = self._stops(first[row] + nth) - starts[row]
        ends = np.bincount(row * length + columns, minlength=batch * length)
        ends_before = first[:, None] + np.cumsum(ends.reshape(batch, length), axis=1)
        column = np.arange(length)
        places = starts[:, None] + column + ends_before
        ids = self._tokens[np.minimum(places, self._tokens.size - 1)].astype(np.int32)
        ids[column >= lengths[:, None]] = 0
        return RawText(ids, lengths)

    def _stops(self, documents: np.ndarray) -> np.ndarray:
        stops: np.ndarray = self._ends[documents] - documents - 1
        return stops

    def _documents_before(self, places: np.ndarray) -> np.ndarray:
        """By bisection: an array of all `_stops` would take memory."""
        low = np.zeros_like(places)
        high = np.full_like(places, self._ends.size)
        while (is_open := low < high).any():
            middle = np.minimum((low + high) // 2, self._ends.size - 1)
            is_before = self._stops(middle) <= places
            low = np.where(is_open & is_before, middle + 1, low)
            high = np.where(is_open & ~is_before, middle, high)
        return low


class ObjectiveRows(Rows):
    """Inputs and targets that an objective makes of texts of `raw_length` ids of a cache."""

    def __init__(
        self,
        cache: TokenCache,
        raw_length: int,
        objective: Objective,
        lengths: FeatureLengths,
        vocabulary: Vocabulary,
    ):
        self._texts = RawStream(cache, raw_length)
        self._objective = objective
        self._lengths = lengths
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, selection: Selection) -> Batch:
        text = self._texts.take(selection.rows)
        return self._objective(text, selection.generators(), self._lengths, self._vocabulary)


class JoinedObjectiveRows(ObjectiveRows):
    """As `ObjectiveRows`, but in one feature "targets", each row "inputs end targets end"."""

    def take(self, selection: Selection) -> Batch:
        batch = super().take(selection)
        parts = np.concatenate([batch[INPUTS], batch[TARGETS]], axis=1)
        row, column = np.nonzero(parts)
        is_id = parts != 0
        place = np.cumsum(is_id, axis=1)[row, column] - 1
        joined = np.zeros([len(parts), self._lengths.joined], np.int32)
        joined[row, place] = parts[row, column]
        return {TARGETS: joined}
