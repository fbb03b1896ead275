"""Rows of texts: a stream that is cut, whole texts packed together, and one example a row."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.features import TARGETS
from mtfrun.data.prompts import bucket
from mtfrun.data.rows.batches import Batch, Places, Rows, Texts, collate, indices_within, spread
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.packing import Plan, pack, stored_plan

# Characters of a cache's fingerprint in the names of plans.
_FINGERPRINT = 16


class TextRows(Rows):
    """Rows of a cache's texts."""

    def __init__(self, cache: TokenCache):
        self.cache = cache

    def padding_of(self, feature: str) -> int:
        is_ids = feature in (*self.cache.features, TARGETS)
        return self.cache.padding_of(feature) if is_ids else 0


class StreamRows(TextRows):
    """The texts of a cache's only feature, joined and cut every `length` tokens.

    A text that exceeds a row continues as the next row's first segment, with positions from 0.
    """

    def __init__(self, cache: TokenCache, length: int):
        super().__init__(cache)
        self._length = length
        self._ends = cache.ends[:, 0]

    def __len__(self) -> int:
        return -(-self.cache.tokens.size // self._length)

    def take(self, selection: Selection) -> Batch:
        begins = selection.rows * self._length
        stops = np.minimum(begins + self._length, self.cache.tokens.size)
        # Text d extends to ends[d], exclusively.
        first = np.searchsorted(self._ends, begins, "right")
        counts = np.searchsorted(self._ends, stops - 1, "right") - first + 1
        nth = indices_within(counts)
        texts = np.repeat(first, counts) + nth
        # The first text of a row begins with the row, and the last ends with it.
        starts = np.where(nth > 0, self._ends[texts - 1], np.repeat(begins, counts))
        ends = np.minimum(self._ends[texts], np.repeat(stops, counts))
        pieces = Texts(starts, ends - starts, ends)
        name, padding_id = self.cache.features[0], self.cache.padding_id
        return collate(name, self.cache.tokens, pieces, counts, self._length, padding_id=padding_id)

    def find(self, examples: np.ndarray) -> Places:
        begins, stops = _bounds(self.cache, examples, 0)
        first = begins // self._length
        counts = (stops - 1) // self._length - first + 1
        rows, numbers = spread(first, counts)
        first_of_row = np.searchsorted(self._ends, rows * self._length, "right")
        return Places(numbers, rows, examples[numbers] - first_of_row + 1)


class _ExampleRows(TextRows):
    """Rows of undivided examples, in one feature "targets" of `joined` ids if that is given.

    Longer texts are trimmed to `lengths` [features], before their end or in `cut_at_front` at the
    beginning.
    """

    def __init__(
        self,
        cache: TokenCache,
        lengths: Sequence[int],
        *,
        joined: int | None = None,
        cut_at_front: Collection[str] = (),
    ):
        super().__init__(cache)
        self._is_joined = joined is not None
        self._limits, self._cut_at_front = lengths, cut_at_front
        texts = dict(zip(cache.features, lengths, strict=True))
        self.lengths = texts if joined is None else {TARGETS: joined}

    @property
    def row_sizes(self) -> np.ndarray:
        """int32 [examples, features of the rows] number of ids of every example."""
        sizes: np.ndarray = np.minimum(self.cache.lengths, np.asarray(self._limits, np.int32))
        return sizes.sum(1, keepdims=True, dtype=np.int32) if self._is_joined else sizes

    def _texts(self, examples: np.ndarray) -> list[Texts]:
        """Returns the texts of examples, by feature of the cache."""
        texts = []
        for column, limit in enumerate(self._limits):
            starts, stops = _bounds(self.cache, examples, column)
            sizes = np.minimum(stops - starts, limit)
            if self.cache.features[column] in self._cut_at_front:
                starts = stops - sizes
            texts.append(Texts(starts, sizes, stops))
        return texts

    def _collate(
        self, examples: np.ndarray, counts: np.ndarray, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns rows of as many examples as `counts` say, see `packed_features`."""
        texts, texts_per_segment = self._texts(examples), 1
        if self._is_joined:
            counts, texts_per_segment = counts * len(texts), len(texts)
            texts = [Texts(*(np.stack(v, axis=1).reshape(-1) for v in zip(*texts, strict=True)))]
        batch: dict[str, np.ndarray] = {}
        for (name, length), feature in zip(lengths.items(), texts, strict=True):
            tokens, padding_id = self.cache.tokens, self.padding_of(name)
            batch |= collate(name, tokens, feature, counts, length, texts_per_segment, padding_id)
        return batch


class _Further(NamedTuple):
    """The further pieces of long texts: their texts, where they begin, and their ids."""

    texts: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


class PackedRows(_ExampleRows):
    """Packed examples, undivided.

    One feature: texts longer than a row are cut into pieces, so that every token is in exactly one
    row. Several features: longer texts are trimmed before their end, or at the beginning in
    `cut_at_front`; segment n of every feature is of the same example.

    Args:
      lengths: [features] the maximum length of a text, and of a row unless features are joined.
      joined: length of rows of the single feature "targets", in which an example is one segment,
        such as "inputs end targets end"; None for rows of each feature.

    Attributes:
      plan: the pieces of every row, from `pack`, stored with the cache: piece n is the beginning of
        example n, and the further pieces follow.
    """

    @functools.cached_property
    def plan(self) -> Plan:
        joined = f"-joined-{self.lengths[TARGETS]}" if self._is_joined else ""
        return stored_plan(
            self.cache.directory,
            f"{'-'.join(map(str, self._limits))}{joined}-{self.cache.fingerprint[:_FINGERPRINT]}",
            len(self.cache) + self._further.sizes.size,
            lambda: pack(self.row_sizes, list(self.lengths.values())),
        )

    def __len__(self) -> int:
        return self.plan.rows

    def take(self, selection: Selection) -> Batch:
        first = self.plan.row_starts[selection.rows]
        counts = self.plan.row_starts[selection.rows + 1] - first
        pieces = self.plan.examples[spread(first, counts)[0]]
        return self._collate(pieces, counts, self.lengths)

    def find(self, examples: np.ndarray) -> Places:
        first = np.searchsorted(self._further.texts, examples, "left")
        counts = np.searchsorted(self._further.texts, examples, "right") - first
        further, numbers = spread(len(self.cache) + first, counts)
        numbers, pieces = np.append(np.arange(len(examples)), numbers), np.append(examples, further)
        order = np.argsort(pieces)
        (places,) = np.nonzero(np.isin(self.plan.examples, pieces))
        which = order[np.searchsorted(pieces[order], self.plan.examples[places])]
        rows = np.searchsorted(self.plan.row_starts, places, "right") - 1
        return Places(numbers[which], rows, places - self.plan.row_starts[rows] + 1)

    @property
    def row_sizes(self) -> np.ndarray:
        further = self._further.sizes.astype(np.int32)[:, np.newaxis]
        return np.concatenate([super().row_sizes, further]) if further.size else super().row_sizes

    @functools.cached_property
    def _further(self) -> _Further:
        if len(self._limits) > 1 or self._is_joined:
            return _Further(*[np.zeros([0], np.int64)] * 3)
        (longest,), lengths = self._limits, self.cache.lengths[:, 0]
        (texts,) = np.nonzero(lengths > longest)
        counts = (lengths[texts] - 1) // longest
        starts, stops = _bounds(self.cache, texts, 0)
        starts = np.repeat(starts, counts) + (indices_within(counts) + 1) * longest
        sizes = np.minimum(longest, np.repeat(stops, counts) - starts)
        return _Further(np.repeat(texts, counts), starts, sizes)

    def _texts(self, pieces: np.ndarray) -> list[Texts]:
        if not self._further.sizes.size:
            return super()._texts(pieces)
        further = pieces - len(self.cache)
        is_further = further >= 0
        ((starts, sizes, _),) = super()._texts(np.where(is_further, 0, pieces))
        starts[is_further] = self._further.starts[further[is_further]]
        sizes[is_further] = self._further.sizes[further[is_further]]
        return [Texts(starts, sizes, starts + sizes)]


class PaddedRows(_ExampleRows):
    """One example a row, longer texts trimmed to one id less, and their end; see `PackedRows`."""

    def __len__(self) -> int:
        return len(self.cache)

    def take(self, selection: Selection) -> Batch:
        return self._take(selection.rows, self.lengths)

    def find(self, examples: np.ndarray) -> Places:
        return Places(np.arange(len(examples)), examples, np.zeros_like(examples))

    def _take(self, rows: np.ndarray, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        batch = self._collate(rows, np.ones_like(rows), lengths)
        return {name: batch[name] for name in lengths}


class RowsByLength(PaddedRows):
    """Rows whose batches, for evaluation, have examples of similar length, the shortest first.

    Features are as long as the longest text of the batch, rounded up by `bucket`: a program is
    compiled for each combination of lengths.
    """

    @functools.cached_property
    def _buckets(self) -> np.ndarray:
        buckets = self.row_sizes
        for column, longest in enumerate(self.lengths.values()):
            bucket_of = np.array([bucket(length, longest) for length in range(longest + 1)])
            buckets[:, column] = bucket_of[buckets[:, column]]
        return buckets

    def divide(self, numbers: np.ndarray, batch: int) -> list[np.ndarray]:
        combinations, group = np.unique(self._buckets[numbers], axis=0, return_inverse=True)
        groups = [numbers[group.reshape(-1) == i] for i in range(len(combinations))]
        return [rows for part in groups for rows in super(RowsByLength, self).divide(part, batch)]

    def take(self, selection: Selection) -> Batch:
        sizes = self._buckets[selection.rows].max(0).tolist()
        return self._take(selection.rows, dict(zip(self.lengths, sizes, strict=True)))


def _bounds(cache: TokenCache, examples: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
    ends = cache.ends.reshape(-1)
    texts = examples.astype(np.int64) * cache.ends.shape[1] + column
    return np.where(texts > 0, ends[texts - 1], 0), ends[texts]
