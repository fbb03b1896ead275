"""Denoising with independent noise at every id."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mtfrun.checks import SHARE_WITHIN, check_fields
from mtfrun.data.objectives.objective import (
    FeatureLengths,
    Objective,
    RawText,
    uniform,
)
from mtfrun.data.objectives.sentinels import check_sentinels, denoised
from mtfrun.data.rows import Batch
from mtfrun.data.vocabularies import Vocabulary

# Standard deviations above the mean: one text in a thousand has more noise.
_DEVIATIONS = 3.0


@dataclasses.dataclass(frozen=True)
class IidDenoising(Objective):
    """Inputs lack ids that are drawn independently, which are the targets.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4: sentinels as in
    `SpanCorruption`. The lengths of the features vary. The targets have room for three standard
    deviations more than the mean; longer ones are cut. A row in which the sentinels do not suffice
    has no more noise after the last one.

    Attributes:
      noise_density: the probability of an id to be noise.
    """

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        check_fields(self, SHARE_WITHIN, "noise_density")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        """Returns the largest lengths of the features, but see the class about targets."""
        density = self.noise_density
        variance = raw_length * density * (1 - density)
        runs = variance + density
        # Ids and sentinels of the targets; the deviation is at most the deviation of both together.
        targets = raw_length * density + runs + _DEVIATIONS * 2 * math.sqrt(variance)
        targets_length = min(math.ceil(targets), raw_length) + 1
        # A run takes a sentinel on either side; the ids are the text's.
        sentinels = 2 * (runs + _DEVIATIONS * math.sqrt(variance)) + 1
        joined = raw_length + min(math.ceil(sentinels), raw_length + 1) + 2
        inputs_length = raw_length + 1
        return FeatureLengths(inputs_length, targets_length, joined)

    def check(self, raw_length: int, vocabulary: Vocabulary) -> None:
        """Raises DataError if the vocabulary has fewer sentinels than a text needs on average."""
        runs = math.ceil(raw_length * self.noise_density * (1 - self.noise_density)) + 1
        check_sentinels(self, runs, vocabulary)

    def __call__(
        self,
        text: RawText,
        generators: Sequence[np.random.Generator],
        lengths: FeatureLengths,
        vocabulary: Vocabulary,
    ) -> Batch:
        return denoised(text, self.mask(text, generators, vocabulary), lengths, vocabulary)

    def mask(
        self, text: RawText, generators: Sequence[np.random.Generator], vocabulary: Vocabulary
    ) -> np.ndarray:
        """Returns bool [batch, raw_length]: whether an id is noise."""
        is_noise = uniform(generators, text.ids.shape[1]) < self.noise_density
        is_noise &= text.is_id
        begins = is_noise.copy()
        begins[:, 1:] &= ~is_noise[:, :-1]
        # The targets may have one run more than the inputs.
        most_runs = len(vocabulary.sentinels) - 1
        is_noise &= np.cumsum(begins, axis=1, dtype=np.int32) <= most_runs
        return is_noise
