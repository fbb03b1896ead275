"""Rows of texts: a stream that is cut, whole texts packed together, and one example a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.features import TARGETS
from mtfrun.data.prompts import bucket
from mtfrun.data.rows.batches import (
    Batch,
    Collated,
    CountedBatches,
    Density,
    Places,
    Rows,
    Texts,
    choose_rows,
    collate,
    fill_up,
    indices_within,
    spread,
)
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.packing import pack, stored_plan

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
        padding_id = self.cache.padding_id
        rows = collate(self.cache.tokens, pieces, counts, self._length, padding_id=padding_id)
        return _pack(self.cache.features[0], rows)

    def find(self, examples: np.ndarray) -> Places:
        begins, stops = _bounds(self.cache, examples, 0)
        first = begins // self._length
        counts = (stops - 1) // self._length - first + 1
        rows, numbers = spread(first, counts)
        first_of_row = np.searchsorted(self._ends, rows * self._length, "right")
        return Places(numbers, rows, examples[numbers] - first_of_row + 1)

    @property
    def density(self) -> Density:
        return Density(self.cache.tokens.size, len(self) * self._length, 0)


class _ExampleRows(TextRows):
    """Rows of undivided examples; one length of the rows if the features are joined."""

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
        texts = dict(zip(cache.features, lengths, strict=True))
        self.lengths = texts if joined is None else {TARGETS: joined}
        self._examples: _Pieces | _TrimmedTexts = _TrimmedTexts(cache, lengths, cut_at_front)

    @property
    def row_sizes(self) -> np.ndarray:
        """int32 [examples, features of the rows] number of ids of every example."""
        sizes = self._examples.sizes
        return sizes.sum(1, keepdims=True, dtype=np.int32) if self._is_joined else sizes

    @property
    def density(self) -> Density:
        tokens = int(self._examples.sizes.sum(dtype=np.int64))
        capacity = len(self) * sum(self.lengths.values())
        return Density(tokens, capacity, self.cache.tokens.size - tokens)

    def _collate(
        self, examples: np.ndarray, counts: np.ndarray, lengths: Mapping[str, int]
    ) -> Iterator[tuple[str, Collated]]:
        """Yields the name of every feature and its rows, of as many examples as `counts` say."""
        texts, texts_per_segment = self._examples.texts(examples), 1
        if self._is_joined:
            counts, texts_per_segment = counts * len(texts), len(texts)
            texts = [Texts(*(np.stack(v, axis=1).reshape(-1) for v in zip(*texts, strict=True)))]
        tokens = self.cache.tokens
        for (name, length), feature in zip(lengths.items(), texts, strict=True):
            padding_id = self.padding_of(name)
            yield name, collate(tokens, feature, counts, length, texts_per_segment, padding_id)


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
      plan: the examples of every row, from `pack`, stored with the cache.
    """

    def __init__(
        self,
        cache: TokenCache,
        lengths: Sequence[int],
        *,
        joined: int | None = None,
        cut_at_front: Collection[str] = (),
    ):
        super().__init__(cache, lengths, joined=joined, cut_at_front=cut_at_front)
        if len(lengths) == 1 and joined is None:
            self._examples = _Pieces(cache, lengths[0])
        name = "-".join(map(str, lengths)) + ("" if joined is None else f"-joined-{joined}")
        self.plan = stored_plan(
            cache.directory,
            f"{name}-{cache.fingerprint[:_FINGERPRINT]}",
            len(self._examples),
            lambda: pack(self.row_sizes, list(self.lengths.values())),
        )

    def __len__(self) -> int:
        return self.plan.rows

    def take(self, selection: Selection) -> Batch:
        first = self.plan.row_starts[selection.rows]
        counts = self.plan.row_starts[selection.rows + 1] - first
        examples = self.plan.examples[spread(first, counts)[0]]
        batch: dict[str, np.ndarray] = {}
        for name, rows in self._collate(examples, counts, self.lengths):
            batch |= _pack(name, rows)
        return batch

    def find(self, examples: np.ndarray) -> Places:
        numbers, pieces = self._examples.pieces_of(examples)
        order = np.argsort(pieces)
        (places,) = np.nonzero(np.isin(self.plan.examples, pieces))
        which = order[np.searchsorted(pieces[order], self.plan.examples[places])]
        rows = np.searchsorted(self.plan.row_starts, places, "right") - 1
        return Places(numbers[which], rows, places - self.plan.row_starts[rows] + 1)


class PaddedRows(_ExampleRows):
    """One example a row, longer texts trimmed to one id less, and their end; see `PackedRows`."""

    def __len__(self) -> int:
        return len(self.cache)

    def take(self, selection: Selection) -> Batch:
        return self.take_short(selection.rows, self.lengths)

    def find(self, examples: np.ndarray) -> Places:
        return Places(np.arange(len(examples)), examples, np.zeros_like(examples))

    def take_short(self, rows: np.ndarray, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Returns the ids of every feature, int32 [rows, its length in `lengths`]."""
        collated = self._collate(rows, np.ones_like(rows), lengths)
        return {name: feature.ids for name, feature in collated}


def batches_by_length(rows: PaddedRows, batch: int, max_rows: int | None = None) -> CountedBatches:
    """Returns every example once, in batches of examples of similar length, the shortest first.

    Features are as long as the longest text of the batch, rounded up by `bucket`: a program is
    compiled for each combination of lengths. `max_rows` are chosen by `choose_rows`.
    """
    numbers = choose_rows(len(rows), max_rows)
    buckets = rows.row_sizes[numbers]
    for column, longest in enumerate(rows.lengths.values()):
        bucket_of = np.array([bucket(length, longest) for length in range(longest + 1)])
        buckets[:, column] = bucket_of[buckets[:, column]]
    combinations, number = np.unique(buckets, axis=0, return_inverse=True)
    parts = []
    for i, combination in enumerate(combinations.tolist()):
        examples = numbers[number.reshape(-1) == i]
        lengths = dict(zip(rows.lengths, combination, strict=True))
        firsts = range(0, examples.size, batch)
        parts += [(lengths, examples[first : first + batch]) for first in firsts]
    batches = (fill_up(rows.take_short(some, lengths), batch, rows) for lengths, some in parts)
    return CountedBatches(batches, len(parts))


class _TrimmedTexts:
    """The texts of a cache, cut to their features' lengths before the end id, or at the front."""

    def __init__(self, cache: TokenCache, limits: Sequence[int], cut_at_front: Collection[str]):
        self._cache = cache
        self._limits = limits
        self._cut_at_front = cut_at_front

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def sizes(self) -> np.ndarray:
        sizes: np.ndarray = np.minimum(self._cache.lengths, np.asarray(self._limits, np.int32))
        return sizes

    def pieces_of(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pieces of examples: the index of each one's example, and its number."""
        return np.arange(len(examples)), examples

    def texts(self, examples: np.ndarray) -> list[Texts]:
        texts = []
        for column, limit in enumerate(self._limits):
            starts, stops = _bounds(self._cache, examples, column)
            sizes = np.minimum(stops - starts, limit)
            if self._cache.features[column] in self._cut_at_front:
                starts = stops - sizes
            texts.append(Texts(starts, sizes, stops))
        return texts


class _Pieces:
    """A cache's texts, long ones cut into pieces: text n begins with piece n; more follow."""

    def __init__(self, cache: TokenCache, longest: int):
        self._cache = cache
        self._longest = longest
        lengths = cache.lengths[:, 0]
        (texts,) = np.nonzero(lengths > longest)
        counts = (lengths[texts] - 1) // longest
        offsets = (indices_within(counts) + 1) * longest
        starts, stops = _bounds(cache, texts, 0)
        self._texts = np.repeat(texts, counts)
        self._starts = np.repeat(starts, counts) + offsets
        self._stops = np.minimum(self._starts + longest, np.repeat(stops, counts))

    def __len__(self) -> int:
        return len(self._cache) + len(self._starts)

    @property
    def sizes(self) -> np.ndarray:
        beginnings = np.minimum(self._cache.lengths[:, 0], self._longest)
        sizes = (self._stops - self._starts).astype(np.int32)
        return np.concatenate([beginnings, sizes])[:, np.newaxis]

    def pieces_of(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = np.searchsorted(self._texts, examples, "left")
        counts = np.searchsorted(self._texts, examples, "right") - first
        further, numbers = spread(len(self._cache) + first, counts)
        return np.append(np.arange(len(examples)), numbers), np.append(examples, further)

    def texts(self, examples: np.ndarray) -> list[Texts]:
        further = examples - len(self._cache)
        is_further = further >= 0
        starts, stops = _bounds(self._cache, np.where(is_further, 0, examples), 0)
        stops = np.minimum(stops, starts + self._longest)
        starts[is_further] = self._starts[further[is_further]]
        stops[is_further] = self._stops[further[is_further]]
        return [Texts(starts, stops - starts, stops)]


def _bounds(cache: TokenCache, examples: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
    ends = cache.ends.reshape(-1)
    texts = examples.astype(np.int64) * cache.ends.shape[1] + column
    return np.where(texts > 0, ends[texts - 1], 0), ends[texts]


def _pack(name: str, rows: Collated) -> dict[str, np.ndarray]:
    return {
        name: rows.ids,
        f"{name}_segmentation": rows.segmentation,
        f"{name}_position": rows.position,
    }
