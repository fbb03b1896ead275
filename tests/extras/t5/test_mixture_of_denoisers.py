"""UL2's mixture of denoisers."""

from __future__ import annotations

import numpy as np

from mtfrun.data.objectives.objective import PrefixLanguageModel
from mtfrun.data.objectives.span_corruption import SpanCorruption
from mtfrun.extras.t5 import Denoiser, MixtureOfDenoisers
from tests.data.objectives.reference import (
    VOCABULARY,
    assert_rows_have_their_noise,
    of_lengths,
    random_text,
    restored,
    texts_of,
    with_noise,
)


def test_ul2_mixes_seven_denoisers_equally() -> None:
    mixture = MixtureOfDenoisers()
    text = random_text(np.random.default_rng(0), 4000, 1)
    chosen = np.concatenate([mixture.choices(with_noise(text, epoch)) for epoch in range(3)])
    shares = np.bincount(chosen, minlength=7) / chosen.size
    assert len(mixture.denoisers) == 7 and abs(shares - 1 / 7).max() < 5 * np.sqrt(0.1225 / 12_000)


def test_rows_of_a_mixture_are_those_of_their_denoiser_after_its_mode() -> None:
    denoisers = [Denoiser(SpanCorruption(), "<R>", rate=3.0), Denoiser(PrefixLanguageModel(), "S")]
    mixture = MixtureOfDenoisers(denoisers)
    text = random_text(np.random.default_rng(0), 40, 60, 33)
    lengths = of_lengths(*mixture.feature_lengths(60, VOCABULARY)[:2])
    batch = mixture(with_noise(text), lengths, VOCABULARY)
    noisy = with_noise(text)
    chosen = mixture.choices(noisy)
    assert 20 < (chosen == 0).sum() < 39
    for row, number in enumerate(chosen.tolist()):
        mode = VOCABULARY.encode(denoisers[number].mode).tolist()
        alone = denoisers[number].objective(
            noisy.select_rows(np.array([row])),
            lengths._replace(inputs=lengths.inputs - len(mode)),
            VOCABULARY,
        )
        assert batch["inputs"][row].tolist() == mode + alone["inputs"][0].tolist()
        assert batch["targets"][row].tolist() == alone["targets"][0].tolist()


def test_a_mixture_leaves_room_for_its_modes_and_longest_features() -> None:
    mixture = MixtureOfDenoisers()
    targets_length = mixture.targets_length(256, VOCABULARY)
    raw_length = mixture.raw_length(VOCABULARY, inputs=256, targets=targets_length)
    lengths = mixture.feature_lengths(raw_length, VOCABULARY)
    assert lengths.inputs == 256 and lengths.targets == targets_length
    text = random_text(np.random.default_rng(0), 200, raw_length)
    batch = mixture(with_noise(text), of_lengths(256, targets_length), VOCABULARY)
    chosen = mixture.choices(with_noise(text))
    for row, ids in enumerate(texts_of(text)):
        inputs = batch["inputs"][row, 5:].tolist()  # after "[NLU]"
        targets = batch["targets"][row].tolist()
        if chosen[row] == 2:  # the prefix language model
            assert inputs[: inputs.index(1)] + targets[: targets.index(1)] == ids
        else:
            assert restored(inputs, targets) == ids


def test_noise_does_not_depend_on_the_batch() -> None:
    assert_rows_have_their_noise(MixtureOfDenoisers())
