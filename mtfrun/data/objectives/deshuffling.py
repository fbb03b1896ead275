"""Deshuffling: a text is made of its ids in random order."""

from __future__ import annotations

import dataclasses

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText, compact
from mtfrun.data.rows.batches import Batch
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import SHARE_ABOVE_0, check_fields

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
