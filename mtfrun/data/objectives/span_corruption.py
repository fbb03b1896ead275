"""Denoising with sentinels, one id in the place of a run of ids: spans, as T5, or single ids."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText, compact
from mtfrun.data.rows.batches import Batch
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import AT_LEAST_1, SHARE_WITHIN, check_fields

# Standard deviations above the mean: one text in a thousand has more noise.
_DEVIATIONS = 3.0


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
    """Inputs lack random spans of the text, which are the targets.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4. The numbers of ids of noise
    and of spans are fixed by the length of a text, as in T5's programs: inputs of 512 ids are made
    of 568 ids of text, and have targets of 114. All masks with these numbers that do not begin with
    noise, and end with it, are equally likely.

    Attributes:
      noise_density: the share of ids that are noise.
      mean_noise_span_length: their mean number in a span, at least 1.
    """

    noise_density: float = 0.15
    mean_noise_span_length: float = 3.0

    def __post_init__(self) -> None:
        check_fields(self, SHARE_WITHIN, "noise_density")
        check_fields(self, AT_LEAST_1, "mean_noise_span_length")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        noise, spans = (int(number) for number in self._noise_and_spans(np.array(raw_length)))
        inputs = raw_length - noise + spans + 1
        targets = noise + spans + 1
        return FeatureLengths(inputs, targets, inputs + targets)

    def targets_length(self, inputs_length: int, vocabulary: Vocabulary) -> int:
        targets_length = super().targets_length(inputs_length, vocabulary)
        # As in T5's programs: where both are about equally long, they are equally long.
        return min(targets_length, inputs_length) if self.noise_density == 0.5 else targets_length

    def check(self, raw_length: int, vocabulary: Vocabulary) -> None:
        vocabulary.sentinel(int(self._noise_and_spans(np.array(raw_length))[1]) - 1)

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        return replace_noise(text, self.mask(text), lengths, vocabulary)

    def mask(self, text: RawText) -> np.ndarray:
        """Returns bool [batch, raw_length]: whether an id is noise."""
        batch, width = text.ids.shape
        noise, spans = self._noise_and_spans(text.lengths)
        not_noise = np.maximum(text.lengths, 2) - noise
        keys = np.stack([noise.bit_generator.random_raw(width) for noise in text.generators])
        # The two use different keys: together they need fewer than a text has ids.
        gaps = random_composition(keys, not_noise, spans)
        sizes = np.stack([gaps, random_composition(keys[:, ::-1], noise, spans)], axis=2)
        starts = np.cumsum(sizes.reshape(batch, -1), axis=1)[:, :-1]
        # Where a row has fewer spans than another, its last starts are at its end.
        places = np.minimum(starts, width) + np.arange(batch)[:, None] * (width + 1)
        changes = np.bincount(places.reshape(-1), minlength=batch * (width + 1))
        number_of_span = np.cumsum(changes.reshape(batch, width + 1)[:, :width], axis=1)
        is_noise: np.ndarray = (number_of_span % 2 == 1) & text.is_id
        return is_noise

    def _noise_and_spans(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts ids of noise and spans as T5's programs do: in float32, halves to even numbers."""
        # A text of one id gets the mask of two, of which the first is not noise.
        lengths = np.maximum(lengths, 2)
        noise = np.rint(lengths.astype(np.float32) * np.float32(self.noise_density))
        noise = np.clip(noise.astype(np.int64), 1, lengths - 1)
        spans = np.rint(noise.astype(np.float32) / np.float32(self.mean_noise_span_length))
        return noise, np.clip(spans.astype(np.int64), 1, np.minimum(noise, lengths - noise))


@dataclasses.dataclass(frozen=True)
class IidDenoising(Objective):
    """Inputs lack ids that are drawn independently, which are the targets.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4: sentinels as in
    `SpanCorruption`. The lengths of the features vary. The targets have room for three standard
    deviations more than the mean; longer ones are cut. A row in which the sentinels do not suffice
    has no more noise after the last sentinel.

    Attributes:
      noise_density: the probability of an id to be noise.
      with_sentinels: whether they mark the places of the others; without them, "drop corrupted
        tokens" in the paper, inputs and targets are the ids alone.
    """

    noise_density: float = 0.15
    with_sentinels: bool = True

    def __post_init__(self) -> None:
        check_fields(self, SHARE_WITHIN, "noise_density")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        density = self.noise_density
        variance = raw_length * density * (1 - density)
        deviations = _DEVIATIONS * math.sqrt(variance)
        runs = variance + density if self.with_sentinels else 0.0
        # Ids and sentinels of the targets; the deviation is at most the deviation of both together.
        targets = raw_length * density + runs + deviations * (2 if self.with_sentinels else 1)
        # A run takes a sentinel on either side; the ids are the text's.
        sentinels = 2 * (runs + deviations) + 1 if self.with_sentinels else 0.0
        joined = raw_length + min(math.ceil(sentinels), raw_length + 1) + 2
        return FeatureLengths(raw_length + 1, min(math.ceil(targets), raw_length) + 1, joined)

    def check(self, raw_length: int, vocabulary: Vocabulary) -> None:
        if self.with_sentinels:
            runs = raw_length * self.noise_density * (1 - self.noise_density)
            vocabulary.sentinel(math.ceil(runs))

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        is_noise = self.mask(text, vocabulary)
        if self.with_sentinels:
            return replace_noise(text, is_noise, lengths, vocabulary)
        end_id = vocabulary.end_id
        return {
            INPUTS: compact(text.ids, text.is_id & ~is_noise, lengths.inputs, end_id),
            TARGETS: compact(text.ids, is_noise, lengths.targets, end_id),
        }

    def mask(self, text: RawText, vocabulary: Vocabulary) -> np.ndarray:
        """Returns bool [batch, raw_length]: whether an id is noise."""
        is_noise = text.uniform(text.ids.shape[1]) < self.noise_density
        is_noise &= text.is_id
        if not self.with_sentinels:
            return is_noise
        begins = is_noise.copy()
        begins[:, 1:] &= ~is_noise[:, :-1]
        # The targets may have one run more than the inputs.
        most_runs = len(vocabulary.sentinels) - 1
        is_noise &= np.cumsum(begins, axis=1, dtype=np.int32) <= most_runs
        return is_noise


def replace_noise(
    text: RawText, is_noise: np.ndarray, lengths: FeatureLengths, vocabulary: Vocabulary
) -> Batch:
    """Returns inputs and targets, each with a sentinel for every run of ids of the other.

    The inputs "a <0> d <1>" and the targets "<0> b c <1> e" make the text "a b c d e" (figure 2).
    `is_noise` is bool [batch, raw_length], False after a text.
    """
    return {
        INPUTS: with_sentinels(text, is_noise, lengths.inputs, vocabulary),
        TARGETS: with_sentinels(text, text.is_id & ~is_noise, lengths.targets, vocabulary),
    }


def with_sentinels(
    text: RawText, is_replaced: np.ndarray, length: int, vocabulary: Vocabulary
) -> np.ndarray:
    """Returns int32 [batch, length]: the ids, with a sentinel for each run of replaced ids."""
    begins = is_replaced.copy()
    begins[:, 1:] &= ~is_replaced[:, :-1]
    number_of_run = np.cumsum(begins, axis=1, dtype=np.int32) - 1
    values = np.where(begins, vocabulary.sentinels[number_of_run], text.ids)
    is_selected = text.is_id & (begins | ~is_replaced)
    return compact(values, is_selected, length, vocabulary.end_id)


def random_composition(keys: np.ndarray, items: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Returns int64 [batch, most parts]: the sizes of the parts of items in a row, 0 after them.

    No part is empty; all such divisions are equally likely: the items are cut at the `parts - 1` of
    their `items - 1` gaps that have the smallest `keys`, uint64 [batch, gaps or more] random.
    """
    gaps = np.arange(int(items.max()) - 1, dtype=np.uint64)
    low_bits = np.uint64((1 << gaps.size.bit_length()) - 1)
    # The low bits of a key name its gap: no two are equal, and a sort brings the gaps with it.
    named = (keys[:, : gaps.size] & ~low_bits) | gaps
    named[gaps >= (items - 1)[:, None]] = np.iinfo(np.uint64).max
    named.sort(axis=1)
    most = int(parts.max())
    cuts = (named[:, : most - 1] & low_bits).astype(np.int64) + 1
    is_cut = np.arange(most - 1) < (parts - 1)[:, None]
    cuts = np.sort(np.where(is_cut, cuts, items[:, None]), axis=1)
    return np.diff(cuts, axis=1, prepend=0, append=items[:, None])
