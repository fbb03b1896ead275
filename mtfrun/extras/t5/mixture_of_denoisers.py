"""UL2's mixture of denoisers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives.objective import FeatureLengths, Objective, PrefixLanguageModel, RawText
from mtfrun.data.objectives.span_corruption import SpanCorruption
from mtfrun.data.rows.batches import Batch
from mtfrun.data.vocabularies.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """An objective of a mixture.

    Attributes:
      mode: text in front of the inputs, by which a prompt chooses this kind of answer, or "".
      rate: how often rows have this objective, relative to the mixture's other rates.
    """

    objective: Objective
    mode: str = ""
    rate: float = 1.0


# Table 1 of the paper: regular, sequential and extreme denoising, with the published modes.
_UL2 = (
    *(Denoiser(SpanCorruption(0.15, mean), "[NLU]") for mean in (3.0, 8.0)),
    Denoiser(PrefixLanguageModel(0.25), "[S2S]"),
    *(Denoiser(SpanCorruption(0.5, mean), "[NLG]") for mean in (3.0, 8.0)),
    *(Denoiser(SpanCorruption(density, 64.0), "[NLG]") for density in (0.15, 0.5)),
)


@dataclasses.dataclass(frozen=True)
class MixtureOfDenoisers(Objective):
    """Every row has one of several objectives, chosen at random, and its mode in front.

    By default UL2's seven in equal parts (Tay et al. 2022, https://arxiv.org/abs/2205.05131,
    section 3.1); lengths of spans are distributed as in `SpanCorruption`, where the paper's are
    normal. All texts have the same number of ids; shorter features are padded.
    """

    denoisers: Sequence[Denoiser] = _UL2

    def __post_init__(self) -> None:
        rates = [denoiser.rate for denoiser in self.denoisers]
        if not rates or min(rates) <= 0:
            raise DataError("MixtureOfDenoisers.denoisers: there must be one, of rates above 0")

    def feature_lengths(self, raw_length: int, vocabulary: Vocabulary) -> FeatureLengths:
        all_lengths = []
        for denoiser in self.denoisers:
            lengths = denoiser.objective.feature_lengths(raw_length, vocabulary)
            mode = len(vocabulary.encode(denoiser.mode))
            all_lengths.append((lengths.inputs + mode, lengths.targets, lengths.joined + mode))
        return FeatureLengths(*(max(lengths) for lengths in zip(*all_lengths, strict=True)))

    def check(self, raw_length: int, vocabulary: Vocabulary) -> None:
        for denoiser in self.denoisers:
            denoiser.objective.check(raw_length, vocabulary)

    def __call__(self, text: RawText, lengths: FeatureLengths, vocabulary: Vocabulary) -> Batch:
        batch = len(text.ids)
        features = {
            INPUTS: np.zeros([batch, lengths.inputs], np.int32),
            TARGETS: np.zeros([batch, lengths.targets], np.int32),
        }
        chosen = self.choices(text)
        for number, denoiser in enumerate(self.denoisers):
            (rows,) = np.nonzero(chosen == number)
            if not rows.size:
                continue
            mode = vocabulary.encode(denoiser.mode)
            room = lengths._replace(inputs=lengths.inputs - len(mode))
            made = denoiser.objective(text.select_rows(rows), room, vocabulary)
            features[INPUTS][rows, : len(mode)] = mode
            features[INPUTS][rows, len(mode) :] = made[INPUTS]
            features[TARGETS][rows] = made[TARGETS]
        return features

    def choices(self, text: RawText) -> np.ndarray:
        """Returns int64 [batch] the index of every row's denoiser."""
        bounds = np.cumsum([denoiser.rate for denoiser in self.denoisers])
        draws = text.uniform(1)[:, 0] * bounds[-1]
        # A product that is rounded up to the last bound still belongs to the last denoiser.
        numbers: np.ndarray = np.searchsorted(bounds[:-1], draws, side="right")
        return numbers
