"""Masked language modelling."""

from __future__ import annotations

import dataclasses

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText, compact
from mtfrun.data.rows.batches import Batch
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import SHARE_WITHIN, check_fields

# Ids that are never drawn: padding, the end, and unknown text.
_NUM_RESERVED_IDS = 3


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModel(Objective):
    """Inputs have a mask in the place of some ids, which are the targets at the same positions.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1, with
    `random_probability=0.1, keep_probability=0.1`; the default is T5's variant (Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683, section 3.1.4, "BERT-style"). The mask is the vocabulary's
    first sentinel. Inputs and targets have one length.

    Attributes:
      noise_density: the probability of an id to be noise.
      random_probability: the share of the noise that becomes a random id instead of the mask.
      keep_probability: the share of the noise that stays as it is.
      full_targets: the targets are all ids, as T5's, for models that generate them, and both
        features have an end. By default they are the ids of the noise, and padding elsewhere.
    """

    noise_density: float = 0.15
    random_probability: float = 0.1
    keep_probability: float = 0.0
    full_targets: bool = False

    def __post_init__(self) -> None:
        check_fields(self, SHARE_WITHIN, "noise_density")
        shares = (self.random_probability, self.keep_probability)
        if min(shares) < 0 or sum(shares) > 1:
            names = "random_probability and keep_probability"
            raise DataError(f"{self}: {names} must be at least 0, and at most 1 together")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        length = raw_length + int(self.full_targets)
        return FeatureLengths(length, length, 2 * length)

    def check(self, raw_length: int, vocabulary: Vocabulary) -> None:
        vocabulary.sentinel(0)

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        width = text.ids.shape[1]
        is_noise = (text.uniform(width) < self.noise_density) & text.is_id
        choices = text.uniform(width)
        # As in T5: not reserved, and below `unpadded_size`.
        bounds = (_NUM_RESERVED_IDS, vocabulary.unpadded_size)
        random_ids = [generator.integers(*bounds, width, np.int32) for generator in text.generators]
        is_random = choices < self.random_probability
        replacements = np.where(is_random, np.stack(random_ids), vocabulary.sentinel(0))
        is_kept = choices >= 1 - self.keep_probability
        inputs = np.where(is_noise & ~is_kept, replacements, text.ids).astype(np.int32)
        if self.full_targets:
            end_id = vocabulary.end_id
            return {
                INPUTS: compact(inputs, text.is_id, lengths.inputs, end_id),
                TARGETS: compact(text.ids, text.is_id, lengths.targets, end_id),
            }
        padding = vocabulary.pad_id
        inputs = np.where(text.is_id, inputs, padding)
        targets = np.where(is_noise, text.ids, padding)
        return {
            INPUTS: _pad(inputs, lengths.inputs, padding),
            TARGETS: _pad(targets, lengths.targets, padding),
        }


def _pad(ids: np.ndarray, length: int, padding: int) -> np.ndarray:
    missing = [(0, 0), (0, max(0, length - ids.shape[1]))]
    return np.pad(ids[:, :length], missing, constant_values=padding).astype(np.int32)
