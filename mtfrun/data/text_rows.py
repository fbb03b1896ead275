"""Rows of texts: streams that are cut, whole texts packed together, and one example a row.

  StreamRows        running text: every token of the stream is in exactly one row
  PackedTextRows    running text whose documents are not divided
  PackedRows        several pairs a row, inputs and targets apart, for encoder-decoders
  JoinedRows        several pairs a row, each "inputs end targets end", for decoders
  PaddedRows        one example a row

Segments count from 1 in each row, positions from 0 in each segment, and both are 0 for padding.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mtfrun.data.batches import filled
from mtfrun.data.cache import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.features import TARGETS
from mtfrun.data.gather import Layout, Texts, lay_out
from mtfrun.data.plan import Plan, pack, stored_plan
from mtfrun.data.prompting import bucket
from mtfrun.data.rows import Batch, Rows, Selection

SEGMENTATION = "{}_segmentation"
POSITION = "{}_position"


class Density(NamedTuple):
    """How full rows are.

    Attributes:
      tokens: ids in all rows that are no padding.
      capacity: positions of all rows, over all features.
      cut_tokens: ids of the texts that are in no row, because their texts are too long.
    """

    tokens: int
    capacity: int
    cut_tokens: int

    @property
    def fraction(self) -> float:
        """The part of all positions that is no padding."""
        return self.tokens / self.capacity


class TextRows(Rows):
    """Rows of a cache's texts.

    Attributes:
      cache: the argument.
    """

    def __init__(self, cache: TokenCache):
        self.cache = cache

    @property
    @abc.abstractmethod
    def density(self) -> Density:
        """How full the rows are, exactly."""


class StreamRows(TextRows):
    """The texts of a cache's only feature, joined and cut every `length` tokens.

    Only the last row is padded. A text that exceeds the end of a row continues in the next row as
    that row's first segment, with positions from 0.

    Args:
      cache: of one feature.
      length: of a row.
    """

    def __init__(self, cache: TokenCache, length: int):
        super().__init__(cache)
        (self._feature,) = _features_of(cache, 1)
        _check_lengths({"length": length}, 1)
        self._length = length
        self._ends = cache.ends.reshape(-1)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return -(-self.cache.tokens.size // self._length)

    def take(self, selection: Selection) -> Batch:
        """Returns targets with their segmentation and position, int32 [rows, length]."""
        begins = selection.rows * self._length
        stops = np.minimum(begins + self._length, self.cache.tokens.size)
        # Text d extends to ends[d], exclusively.
        first = np.searchsorted(self._ends, begins, "right")
        counts = np.searchsorted(self._ends, stops - 1, "right") - first + 1
        texts = np.repeat(first, counts) + _places(counts)
        ends = np.minimum(self._ends[texts], np.repeat(stops, counts))
        starts = np.repeat(begins, counts)
        is_later = _places(counts) > 0  # the first text of a row begins with the row
        starts[is_later] = self._ends[texts[is_later] - 1]
        layout = lay_out(
            self.cache.tokens, Texts(starts, ends - starts, ends), counts, self._length
        )
        return _named(self._feature, layout)

    @property
    def density(self) -> Density:
        """How full the rows are; nothing is cut off."""
        return Density(self.cache.tokens.size, len(self) * self._length, 0)


class PackedTextRows(TextRows):
    """The texts of a cache's only feature, undivided, as many in a row as fit.

    A text that is longer than a row is cut into pieces of a whole row and a remainder, so that
    every token is in exactly one row.

    Args:
      cache: of one feature.
      length: of a row.
    """

    def __init__(self, cache: TokenCache, length: int):
        super().__init__(cache)
        (self._feature,) = _features_of(cache, 1)
        _check_lengths({"length": length}, 1)
        self._length = length
        lengths = cache.lengths[:, 0]
        # Piece number `len(cache) + i` is the i-th of those that are not the first of their text.
        (long,) = np.nonzero(lengths > length)
        further = (lengths[long] - 1) // length
        offsets = (_places(further) + 1) * length
        self._further_starts = np.repeat(_starts(cache)(long, 0), further) + offsets
        further_sizes = np.minimum(np.repeat(lengths[long], further) - offsets, length)
        self._further_sizes = further_sizes.astype(np.int32)
        self._plan = stored_plan(
            cache.directory,
            f"texts-{length}",
            len(cache) + further_sizes.size,
            lambda: pack(
                np.concatenate([lengths, self._further_sizes])[:, np.newaxis], [length]
            ),
        )

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._plan.rows

    def take(self, selection: Selection) -> Batch:
        """Returns targets with their segmentation and position, int32 [rows, length]."""
        pieces, counts = _planned(self._plan, selection.rows)
        texts = len(self.cache)
        is_first = pieces < texts
        first = _starts(self.cache)(np.where(is_first, pieces, 0), 0)
        sizes = np.minimum(self.cache.ends[np.where(is_first, pieces, 0), 0] - first, self._length)
        if not is_first.all():
            further = pieces[~is_first] - texts
            first[~is_first] = self._further_starts[further]
            sizes[~is_first] = self._further_sizes[further]
        layout = lay_out(
            self.cache.tokens, Texts(first, sizes, first + sizes), counts, self._length
        )
        return _named(self._feature, layout)

    @property
    def density(self) -> Density:
        """How full the rows are; nothing is cut off."""
        return Density(self.cache.tokens.size, len(self) * self._length, 0)


class PackedRows(TextRows):
    """Examples packed into rows of several features, each with its segmentation and position.

    Segment n of every feature is of the same example. A text that is longer than its limit is
    trimmed to one id less, and its end.

    Args:
      cache: of the features.
      lengths: of a row, and the maximum of a text, by feature.
    """

    def __init__(self, cache: TokenCache, lengths: Mapping[str, int]):
        super().__init__(cache)
        _check_lengths(lengths, 1)
        self._texts = _TrimmedTexts(cache, lengths)
        self._lengths = dict(lengths)
        name = "-".join(["examples", *map(str, self._texts.limits)])
        self._plan = stored_plan(
            cache.directory, name, len(cache), lambda: pack(cache.lengths, self._texts.limits)
        )

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._plan.rows

    def take(self, selection: Selection) -> Batch:
        """Returns every feature with segmentation and position, int32 [rows, length]."""
        examples, counts = _planned(self._plan, selection.rows)
        batch: dict[str, np.ndarray] = {}
        for feature, length in self._lengths.items():
            texts = self._texts.of(examples, feature)
            batch |= _named(feature, lay_out(self.cache.tokens, texts, counts, length))
        return batch

    @property
    def density(self) -> Density:
        """How full the rows are; for one feature see `Density` of `feature_density`."""
        tokens, cut = self._texts.tokens_and_cut
        return Density(sum(tokens), len(self) * sum(self._texts.limits), sum(cut))

    @property
    def feature_density(self) -> dict[str, Density]:
        """How full the rows of each feature are."""
        return {
            feature: Density(tokens, len(self) * limit, cut)
            for feature, limit, tokens, cut in zip(
                self.cache.features,
                self._texts.limits,
                *self._texts.tokens_and_cut,
                strict=True,
            )
        }


class JoinedRows(TextRows):
    """Pairs in rows of one feature, each "inputs end targets end" and one segment, undivided.

    Inputs or targets that are longer than their limit are trimmed to one id less, and their end.

    Args:
      cache: of two features.
      lengths: the maximum of a text, by feature; the first one comes first in the row.
      length: of a row, at least the sum of `lengths`, which is the default.
      packed: whether a row holds as many pairs as fit, or one.
    """

    def __init__(
        self,
        cache: TokenCache,
        lengths: Mapping[str, int],
        length: int | None = None,
        *,
        packed: bool = True,
    ):
        super().__init__(cache)
        self._texts = _TrimmedTexts(cache, lengths)
        self._length = sum(lengths.values()) if length is None else length
        _check_lengths({"length": self._length}, sum(lengths.values()))
        self._plan = None
        if packed:
            self._plan = stored_plan(
                cache.directory,
                "-".join(["joined", str(self._length), *map(str, self._texts.limits)]),
                len(cache),
                self._make_plan,
            )

    def _make_plan(self) -> Plan:
        limits = np.asarray(self._texts.limits, np.int32)
        sizes = np.minimum(self.cache.lengths, limits).sum(1, keepdims=True, dtype=np.int32)
        return pack(sizes, [self._length])

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.cache) if self._plan is None else self._plan.rows

    def take(self, selection: Selection) -> Batch:
        """Returns targets with their segmentation and position, int32 [rows, length]."""
        if self._plan is None:
            examples, counts = selection.rows, np.ones_like(selection.rows)
        else:
            examples, counts = _planned(self._plan, selection.rows)
        columns = [self._texts.of(examples, feature) for feature in self._texts.features]
        texts = Texts(*(np.stack(parts, axis=1).reshape(-1) for parts in zip(*columns, strict=True)))
        layout = lay_out(
            self.cache.tokens, texts, counts * len(columns), self._length, len(columns)
        )
        return _named(TARGETS, layout)

    @property
    def density(self) -> Density:
        """How full the rows are."""
        tokens, cut = self._texts.tokens_and_cut
        return Density(sum(tokens), len(self) * self._length, sum(cut))


class PaddedRows(TextRows):
    """One example a row, every feature padded to its length.

    A text that is longer than its limit is trimmed to one id less, and its end.

    Args:
      cache: of the features.
      lengths: of a row, by feature.
    """

    def __init__(self, cache: TokenCache, lengths: Mapping[str, int]):
        super().__init__(cache)
        _check_lengths(lengths, 1)
        self._texts = _TrimmedTexts(cache, lengths)
        self._lengths = dict(lengths)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.cache)

    def take(self, selection: Selection) -> Batch:
        """Returns the ids of every feature, int32 [rows, length]."""
        return self._take(selection.rows, self._lengths)

    def bucketed(self, batch: int) -> Iterator[Batch]:
        """Yields every example once, in batches of examples of similar length.

        Features are as long as the longest text of the batch needs, rounded up to a power of two,
        see `bucket`. Rows of zeros fill up the last batch of each combination of lengths.
        """
        lengths = self._texts.sizes
        buckets = np.stack(
            [
                _buckets(self._lengths[feature])[lengths[:, column]]
                for column, feature in enumerate(self._texts.features)
            ],
            axis=1,
        )
        combinations, of_example = np.unique(buckets, axis=0, return_inverse=True)
        by_combination = np.argsort(of_example.reshape(-1), kind="stable")
        counts = np.bincount(of_example.reshape(-1))
        groups = np.split(by_combination, np.cumsum(counts)[:-1])
        for combination, examples in zip(combinations.tolist(), groups, strict=True):
            sizes = dict(zip(self._texts.features, combination, strict=True))
            for first in range(0, examples.size, batch):
                values = self._take(examples[first : first + batch], sizes)
                yield {name: filled(value, batch) for name, value in values.items()}

    def _take(self, examples: np.ndarray, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        return {
            feature: lay_out(
                self.cache.tokens,
                self._texts.of(examples, feature),
                np.ones_like(examples),
                lengths[feature],
            ).ids
            for feature in self._lengths
        }

    @property
    def density(self) -> Density:
        """How full the rows are; `bucketed` yields fuller ones."""
        tokens, cut = self._texts.tokens_and_cut
        return Density(sum(tokens), len(self) * sum(self._texts.limits), sum(cut))


class _TrimmedTexts:
    """The texts of a cache's features, each at most as long as its limit.

    Attributes:
      features: the names, in the order of the cache's columns.
      limits: int [features] the maximum length of each.
    """

    def __init__(self, cache: TokenCache, lengths: Mapping[str, int]):
        if set(cache.features) != set(lengths):
            raise DataError(
                f"lengths are given for {', '.join(lengths)}, but the texts are "
                f"{', '.join(cache.features)}"
            )
        self._cache = cache
        self.features = cache.features
        self.limits = [lengths[feature] for feature in cache.features]

    def of(self, examples: np.ndarray, feature: str) -> Texts:
        """Returns the texts of one feature of the examples."""
        column = self.features.index(feature)
        starts = _starts(self._cache)(examples, column)
        stops = self._cache.ends[examples, column]
        return Texts(starts, np.minimum(stops - starts, self.limits[column]), stops)

    @property
    def sizes(self) -> np.ndarray:
        """int32 [examples, features] tokens of every text that are in a row."""
        return np.minimum(self._cache.lengths, np.asarray(self.limits, np.int32))

    @functools.cached_property
    def tokens_and_cut(self) -> tuple[list[int], list[int]]:
        """Tokens of every feature that are in a row, and those that are not."""
        tokens = self.sizes.sum(0, dtype=np.int64)
        total = self._cache.lengths.sum(0, dtype=np.int64)
        return tokens.tolist(), (total - tokens).tolist()


def _starts(cache: TokenCache):  # noqa
    ends = cache.ends.reshape(-1)
    features = cache.ends.shape[1]

    def starts(examples: np.ndarray, column: int) -> np.ndarray:
        texts = examples.astype(np.int64) * features + column
        return np.where(texts > 0, ends[texts - 1], 0)

    return starts


def _planned(plan: Plan, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples of the rows, one row after the other, and how many each has."""
    first = plan.row_starts[rows]
    counts = plan.row_starts[rows + 1] - first
    return plan.examples[np.repeat(first, counts) + _places(counts)], counts


def _places(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., count - 1 for every count, one after the other.

    >>> _places(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _named(feature: str, layout: Layout) -> dict[str, np.ndarray]:
    return {
        feature: layout.ids,
        SEGMENTATION.format(feature): layout.segmentation,
        POSITION.format(feature): layout.position,
    }


def _buckets(longest: int) -> np.ndarray:
    """Returns the bucket of every length up to the longest, int [longest + 1]."""
    return np.array([bucket(length, longest) for length in range(longest + 1)])


def _features_of(cache: TokenCache, number: int) -> tuple[str, ...]:
    if len(cache.features) != number:
        raise DataError(f"rows of {number} features cannot hold {', '.join(cache.features)}")
    return cache.features


def _check_lengths(lengths: Mapping[str, int], least: int) -> None:
    for name, length in lengths.items():
        if length < least:
            raise DataError(f"{name} must be at least {least}, not {length}")
