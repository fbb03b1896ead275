"""Prefix language modelling."""

from __future__ import annotations

import dataclasses

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText, compact
from mtfrun.data.rows.batches import Batch
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import Range, check_fields


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
