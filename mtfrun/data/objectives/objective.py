"""Objectives: features of a model from running text and noise; a prefix, and deshuffling."""

from __future__ import annotations

import abc
import bisect
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.rows.batches import Batch
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import SHARE_ABOVE_0, Range, check_fields

# The shortest text that can be divided into inputs and targets.
_SHORTEST_TEXT = 2


class RawText(NamedTuple):
    """Running text, without ends between documents: int32 [batch, raw_length], 0 after a text.

    Lengths are int64 [batch], at least 1; only the last text of a stream has fewer ids. Noise is
    drawn from the row's generator.
    """

    ids: np.ndarray
    lengths: np.ndarray
    generators: Sequence[np.random.Generator]

    @property
    def is_id(self) -> np.ndarray:
        """Whether there is an id, bool [batch, raw_length]: False after a text."""
        return np.arange(self.ids.shape[1]) < self.lengths[:, None]

    def select_rows(self, rows: np.ndarray) -> RawText:
        generators = [self.generators[row] for row in rows.tolist()]
        return RawText(self.ids[rows], self.lengths[rows], generators)

    def uniform(self, width: int) -> np.ndarray:
        """Returns random float64 [batch, width] in [0, 1)."""
        return np.stack([generator.random(width) for generator in self.generators])


class FeatureLengths(NamedTuple):
    """Lengths of the features of a row, their ends included.

    `joined` is for both in one row, "inputs end targets end": at most their sum.
    """

    inputs: int
    targets: int
    joined: int


class Objective(abc.ABC):
    """Makes inputs and targets of running text, with noise.

    It is a pure function of the text and its rows' generators, so that a row has the same noise in
    any batch. Its `repr` identifies it in fingerprints.
    """

    @abc.abstractmethod
    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        """Returns the features' largest lengths for `raw_length` ids; they never fall with it."""

    @abc.abstractmethod
    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        """Returns "inputs" and "targets", int32 [batch, length of the feature], padded with 0.

        Ids that do not fit into `lengths` are cut before the end.
        """

    def check(self, raw_length: int, vocabulary: Vocabulary) -> None:  # noqa: B027, optional
        """Raises DataError if texts of that length need more sentinels than there are."""

    def targets_length(self, inputs_length: int, vocabulary: Vocabulary) -> int:
        """Returns the length of the targets of the longest text with inputs that fit."""
        raw_length = self._longest(vocabulary, "inputs", inputs_length)
        return self.feature_lengths(raw_length, vocabulary).targets

    def raw_length(self, vocabulary: Vocabulary, **lengths: int) -> int:
        """Returns the ids of the longest text that fits these features, or raises DataError."""
        raw_length = min(self._longest(vocabulary, *feature) for feature in lengths.items())
        self.check(raw_length, vocabulary)
        return raw_length

    def _longest(self, vocabulary: Vocabulary, feature: str, length: int) -> int:
        def count_ids(raw_length: int) -> int:
            ids: int = getattr(self.feature_lengths(raw_length, vocabulary), feature)
            return ids

        if count_ids(_SHORTEST_TEXT) > length:
            message = f"{self}: no text fits into {feature} of {length} ids: make them longer"
            raise DataError(message)
        too_long = 2 * _SHORTEST_TEXT
        while count_ids(too_long) <= length:
            too_long *= 2
        return bisect.bisect_right(range(too_long), length, lo=_SHORTEST_TEXT, key=count_ids) - 1


def compact(values: np.ndarray, is_selected: np.ndarray, length: int, end_id: int) -> np.ndarray:
    """Returns the selected values, moved together, and the end id; int32 [batch, length].

    `values` and `is_selected` are [batch, raw_length]. The result is padded with 0; ids that do not
    fit before the end are cut.
    """
    batch = len(values)
    column = np.cumsum(is_selected, axis=1, dtype=np.int32) - 1
    first = np.arange(0, batch * length, length)
    # Flat indices: they are much faster than pairs of row and column.
    selected = np.flatnonzero(is_selected & (column < length - 1))
    places = (column + first[:, None]).reshape(-1)[selected]
    ids = np.zeros(batch * length, np.int32)
    ids[places] = values.reshape(-1)[selected]
    ids[first + np.minimum(column[:, -1] + 1, length - 1)] = end_id
    return ids.reshape(batch, length)


@dataclasses.dataclass(frozen=True)
class PrefixLanguageModel(Objective):
    """Inputs are the beginning of the text, and targets are the remainder.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4: the length of the prefix of
    a text of n ids is uniform in [1, n). For a smaller `noise_density`, as in UL2 (Tay et al. 2022,
    https://arxiv.org/abs/2205.05131, section 3.1), the length of the targets is uniform in
    [1, 2 * noise_density * n).

    Attributes:
      noise_density: the mean share of ids that are targets, at most 0.5.
    """

    noise_density: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self, Range(0, 0.5, without_lowest=True), "noise_density")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        targets = int(self._most_targets(np.array(raw_length)))
        return FeatureLengths(raw_length, targets + 1, raw_length + 2)

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        is_prefix = np.arange(text.ids.shape[1]) < self.prefix_lengths(text)[:, None]
        end_id = vocabulary.end_id
        return {
            INPUTS: compact(text.ids, text.is_id & is_prefix, lengths.inputs, end_id),
            TARGETS: compact(text.ids, text.is_id & ~is_prefix, lengths.targets, end_id),
        }

    def prefix_lengths(self, text: RawText) -> np.ndarray:
        """Returns int64 [batch] number of ids of the inputs, without the end."""
        draws = text.uniform(1)[:, 0]
        targets = 1 + np.floor(draws * self._most_targets(text.lengths)).astype(np.int64)
        prefix_lengths: np.ndarray = text.lengths - targets
        return prefix_lengths

    def _most_targets(self, lengths: np.ndarray) -> np.ndarray:
        most = np.ceil(2 * self.noise_density * lengths).astype(np.int64) - 1
        return np.clip(most, 1, np.maximum(lengths - 1, 1))


# Behind all keys.
_LAST = 2.0


@dataclasses.dataclass(frozen=True)
class Deshuffling(Objective):
    """Inputs are the text with its noise in random order, and targets are the text.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4, "deshuffling"; after Liu
    et al. 2019, https://arxiv.org/abs/1901.07504.

    Attributes:
      noise_density: the probability of an id to be noise; the others keep their places.
    """

    noise_density: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, SHARE_ABOVE_0, "noise_density")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        return FeatureLengths(raw_length + 1, raw_length + 1, 2 * raw_length + 2)

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        width = text.ids.shape[1]
        is_noise = (text.uniform(width) < self.noise_density) & text.is_id
        keys = np.where(is_noise, text.uniform(width), _LAST)
        # Noise by its keys, then the other ids, in their order; and the places of both.
        drawn = np.argsort(keys, axis=1, kind="stable")
        places = np.argsort(~is_noise, axis=1, kind="stable")
        inputs = text.ids.copy()
        np.put_along_axis(inputs, places, np.take_along_axis(text.ids, drawn, axis=1), axis=1)
        return {
            INPUTS: compact(inputs, text.is_id, lengths.inputs, vocabulary.end_id),
            TARGETS: compact(text.ids, text.is_id, lengths.targets, vocabulary.end_id),
        }
