"""Span corruption, the pre-training objective of T5."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtfrun.checks import AT_LEAST_1, SHARE_WITHIN, check_fields
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText
from mtfrun.data.objectives.sentinels import check_sentinels, denoised
from mtfrun.data.rows import Batch
from mtfrun.data.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
    """Inputs lack random spans of the text, which are the targets.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4. The number of ids of noise
    and the number of spans are fixed by the length of a text, as in T5's programs: inputs of 512
    ids are made of 568 ids of text, and have targets of 114. Of the masks with these numbers that
    begin with an id that is not noise, and end with noise, all are equally likely.

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
        check_sentinels(self, int(self._noise_and_spans(np.array(raw_length))[1]), vocabulary)

    def __call__(
        self,
        text: RawText,
        generators: Sequence[np.random.Generator],
        lengths: FeatureLengths,
        vocabulary: Vocabulary,
    ) -> Batch:
        return denoised(text, self.mask(text, generators), lengths, vocabulary)

    def mask(self, text: RawText, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Returns bool [batch, raw_length]: whether an id is noise."""
        batch, width = text.ids.shape
        noise, spans = self._noise_and_spans(text.lengths)
        not_noise = np.maximum(text.lengths, 2) - noise
        keys = np.stack([generator.bit_generator.random_raw(width) for generator in generators])
        # The two use different keys: together they need fewer than a text has ids.
        sizes = np.stack(
            [
                random_composition(keys, not_noise, spans),
                random_composition(keys[:, ::-1], noise, spans),
            ],
            axis=2,
        )
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
