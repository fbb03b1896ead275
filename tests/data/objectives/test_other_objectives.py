"""I.i.d. denoising, masked and prefix language models, against the reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtfrun.data import ByteVocabulary, DataError
from mtfrun.data.objectives.masked_language_model import MaskedLanguageModel
from mtfrun.data.objectives.objective import Deshuffling, Objective, PrefixLanguageModel
from mtfrun.data.objectives.span_corruption import IidDenoising, SpanCorruption, replace_noise
from mtfrun.errors import InputError
from tests.data.objectives.reference import (
    END,
    FIRST_SENTINEL,
    NUM_SENTINELS,
    VOCABULARY,
    assert_rows_have_their_noise,
    of_lengths,
    padded,
    random_text,
    raw_text,
    restored,
    texts_of,
    with_noise,
    with_sentinels,
)

# Five standard deviations of a share among this many draws, at most: 5 * sqrt(0.25 / 40_000).
DRAWS, SHARE_TOLERANCE = 40_000, 0.0125
# Chi-square of 8 degrees of freedom is larger in one case of a million.
CHI_SQUARE_8 = 42.7


@settings(max_examples=60, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=1, max_size=60), length=st.integers(1, 70))
def test_denoised_is_the_reference_for_any_mask(mask: list[bool], length: int) -> None:
    ids = list(range(10, 10 + len(mask)))
    noise = np.zeros([2, 60], bool)
    noise[0, : len(mask)] = mask
    lengths = of_lengths(length, length + 3)
    batch = replace_noise(raw_text([ids, [7]], 60), noise, lengths, VOCABULARY)
    others = [not noise for noise in mask]
    assert batch["inputs"][0].tolist() == padded(with_sentinels(ids, mask), length)
    assert batch["targets"][0].tolist() == padded(with_sentinels(ids, others), length + 3)
    assert batch["inputs"][1].tolist() == padded([7], length)


def test_iid_denoising_makes_inputs_and_targets_of_its_mask() -> None:
    objective = IidDenoising(0.3)
    text = random_text(np.random.default_rng(0), 5, 90, 31)
    lengths = of_lengths(91, 91)
    batch = objective(with_noise(text), lengths, VOCABULARY)
    masks = objective.mask(with_noise(text), VOCABULARY)
    for row, ids in enumerate(texts_of(text)):
        mask = masks[row, : len(ids)].tolist()
        assert batch["inputs"][row].tolist() == padded(with_sentinels(ids, mask), 91)
        inputs, targets = batch["inputs"][row].tolist(), batch["targets"][row].tolist()
        assert mask[0] or restored(inputs, targets) == ids


def test_iid_denoising_without_sentinels_divides_the_ids() -> None:
    objective = IidDenoising(0.3, with_sentinels=False)
    text = random_text(np.random.default_rng(0), 5, 90, 31)
    batch = objective(with_noise(text), of_lengths(91, 91), VOCABULARY)
    masks = objective.mask(with_noise(text), VOCABULARY)
    for row, ids in enumerate(texts_of(text)):
        parts = {
            feature: [x for x, is_noise in zip(ids, masks[row], strict=False) if is_noise == wanted]
            for feature, wanted in (("inputs", False), ("targets", True))
        }
        assert parts["targets"] and parts["inputs"]
        for feature, expected in parts.items():
            assert batch[feature][row].tolist() == padded(expected, 91)


@pytest.mark.parametrize("density", [1.0, 0.4])
def test_deshuffling_gives_the_noise_other_places(density: float) -> None:
    objective = Deshuffling(density)
    text = random_text(np.random.default_rng(0), 200, 50, 9)
    batch = objective(with_noise(text), of_lengths(51, 51), VOCABULARY)
    kept = []
    for row, ids in enumerate(texts_of(text)):
        assert batch["targets"][row].tolist() == padded(ids, 51)
        inputs = batch["inputs"][row, : len(ids)]
        assert sorted(inputs) == sorted(ids) and batch["inputs"][row, len(ids)] == END
        kept.append(np.mean(inputs == ids))
    # Of the noise one id a row stays, on average.
    assert abs(np.mean(kept) - (1 - density) - 1 / 50) < 0.02


def test_iid_noise_is_independent_and_has_its_density() -> None:
    text = random_text(np.random.default_rng(0), 100, 400)
    mask = IidDenoising(0.15).mask(with_noise(text), VOCABULARY)
    assert abs(mask.mean() - 0.15) < SHARE_TOLERANCE
    both = mask[:, 1:] & mask[:, :-1]
    assert abs(both.mean() - 0.15**2) < SHARE_TOLERANCE / 4


def test_iid_targets_hold_almost_all_noise() -> None:
    objective = IidDenoising()
    targets_length = objective.targets_length(512, VOCABULARY)
    raw_length = objective.raw_length(VOCABULARY, inputs=512, targets=targets_length)
    assert raw_length == 511 and targets_length < 200
    text = random_text(np.random.default_rng(0), 300, raw_length)
    batch = objective(with_noise(text), of_lengths(512, targets_length), VOCABULARY)
    full = (batch["targets"] != 0).all(axis=1)
    assert full.sum() <= 3


def test_iid_noise_ends_with_the_sentinels() -> None:
    text = random_text(np.random.default_rng(0), 4, 2000)
    mask = IidDenoising(0.5).mask(with_noise(text), VOCABULARY)
    begins = mask & ~np.pad(mask[:, :-1], [(0, 0), (1, 0)])
    assert begins.sum(axis=1).tolist() == [NUM_SENTINELS - 1] * 4
    with pytest.raises(DataError, match="choose shorter rows"):
        IidDenoising(0.5).raw_length(VOCABULARY, inputs=2001, targets=2001)


def test_masked_language_model_changes_the_noise_only() -> None:
    objective = MaskedLanguageModel(random_probability=0.2, keep_probability=0.3)
    text = random_text(np.random.default_rng(0), 100, 400, 211)
    batch = objective(with_noise(text), of_lengths(400, 400), VOCABULARY)
    inputs, targets = batch["inputs"], batch["targets"]
    is_noise = targets != 0
    assert (inputs[~is_noise] == text.ids[~is_noise]).all()
    assert (targets[is_noise] == text.ids[is_noise]).all()
    assert not inputs[-1, 211:].any() and not targets[-1, 211:].any()
    assert abs(is_noise.mean() - 0.15) < SHARE_TOLERANCE
    noise = inputs[is_noise]
    share = 5 * np.sqrt(0.25 / noise.size)
    assert abs((noise == FIRST_SENTINEL).mean() - 0.5) < share
    assert abs((noise == text.ids[is_noise]).mean() - 0.3) < share
    random = noise[(noise != FIRST_SENTINEL) & (noise != text.ids[is_noise])]
    assert abs(random.size / noise.size - 0.2) < share
    assert random.min() >= 3 and random.max() < 32_100 and len(set(random.tolist())) > 1000


@pytest.mark.parametrize("full_targets", [False, True])
def test_random_ids_cover_the_vocabulary_without_padding_of_the_table(full_targets: bool) -> None:
    text = raw_text([[100] * 400] * 100, 400)
    objective = MaskedLanguageModel(0.5, random_probability=1.0, full_targets=full_targets)
    batch = objective(with_noise(text), of_lengths(401, 401), ByteVocabulary())
    drawn = batch["inputs"][:, :400][batch["inputs"][:, :400] != 100]
    assert set(drawn.tolist()) == set(range(3, 259)) - {100}


def test_full_targets_are_the_text() -> None:
    objective = MaskedLanguageModel(full_targets=True)
    text = random_text(np.random.default_rng(0), 3, 40, 7)
    plain = MaskedLanguageModel()(with_noise(text), of_lengths(40, 40), VOCABULARY)
    batch = objective(with_noise(text), of_lengths(41, 41), VOCABULARY)
    for row, ids in enumerate(texts_of(text)):
        assert batch["targets"][row].tolist() == padded(ids, 41)
        noisy = plain["inputs"][row, : len(ids)].tolist()
        assert batch["inputs"][row].tolist() == padded(noisy, 41)


def test_lengths_of_prefixes_are_uniform() -> None:
    text = random_text(np.random.default_rng(0), 1000, 10)
    counts: Counter[int] = Counter()
    for epoch in range(9):
        counts.update(PrefixLanguageModel().prefix_lengths(with_noise(text, epoch)).tolist())
    assert set(counts) == set(range(1, 10))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < CHI_SQUARE_8


def test_ul2s_sequential_denoiser_has_a_quarter_of_the_text_as_targets() -> None:
    text = random_text(np.random.default_rng(0), 2000, 100)
    targets = 100 - PrefixLanguageModel(0.25).prefix_lengths(with_noise(text))
    assert targets.min() == 1 and targets.max() == 49
    # Standard deviation of the mean: 14.1 / sqrt(2000).
    assert abs(targets.mean() - 25) < 5 * 0.32


@pytest.mark.parametrize("density", [0.0, 0.51])
def test_a_prefix_language_models_density_is_at_most_one_half(density: float) -> None:
    with pytest.raises(InputError, match=r"more than 0 and at most 0\.5"):
        PrefixLanguageModel(density)


@settings(max_examples=30, deadline=None)
@given(raw_length=st.integers(2, 80), last=st.integers(1, 80), epoch=st.integers(0, 99))
def test_a_prefix_and_its_targets_are_the_text(raw_length: int, last: int, epoch: int) -> None:
    objective = PrefixLanguageModel()
    text = random_text(np.random.default_rng(epoch), 3, raw_length, min(last, raw_length))
    lengths = objective.feature_lengths(raw_length, VOCABULARY)
    batch = objective(with_noise(text, epoch), lengths, VOCABULARY)
    for row, ids in enumerate(texts_of(text)):
        inputs, targets = batch["inputs"][row].tolist(), batch["targets"][row].tolist()
        assert inputs[: inputs.index(1)] + targets[: targets.index(1)] == ids
        assert len(ids) == 1 or 1 <= inputs.index(1) < len(ids)


@pytest.mark.parametrize(
    "objective",
    [SpanCorruption(), IidDenoising(), MaskedLanguageModel()],
    ids=lambda objective: type(objective).__name__,
)
def test_noise_does_not_depend_on_the_batch(objective: Objective) -> None:
    assert_rows_have_their_noise(objective)


def test_a_vocabulary_without_sentinels_is_an_error() -> None:
    class WithoutSentinels(ByteVocabulary):
        sentinels = np.zeros([0], np.int32)

    for objective in (SpanCorruption(), IidDenoising(), MaskedLanguageModel()):
        with pytest.raises(DataError, match="WithoutSentinels has 0"):
            objective.raw_length(WithoutSentinels(), inputs=64, targets=64)
