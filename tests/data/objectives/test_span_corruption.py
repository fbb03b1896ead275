"""Span corruption: T5's lengths, ids and distribution of masks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtfrun.data import DataError
from mtfrun.data.objectives.span_corruption import SpanCorruption, random_composition
from mtfrun.errors import InputError
from tests.data.objectives.reference import (
    NUM_SENTINELS,
    VOCABULARY,
    noise_and_spans,
    of_lengths,
    padded,
    random_text,
    restored,
    t5_lengths,
    texts_of,
    with_noise,
    with_sentinels,
)

# Chi-square of 9 and of 14 degrees of freedom is larger in one case of a million.
CHI_SQUARE_9, CHI_SQUARE_14 = 45.1, 54.6


def test_t5s_inputs_of_512_are_made_of_568_ids_and_have_targets_of_114() -> None:
    objective = SpanCorruption()
    assert objective.targets_length(512, VOCABULARY) == 114
    assert objective.raw_length(VOCABULARY, inputs=512, targets=114) == 568


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 64.0)])
def test_lengths_are_t5s(density: float, mean: float) -> None:
    objective = SpanCorruption(density, mean)
    compared = 0
    for inputs_length in range(2 * int(mean) + 20, 300):
        raw_length, targets_length = t5_lengths(inputs_length, density, mean)
        # T5 computes lengths in float64 and masks in float32, whose halves round differently: it
        # cuts the targets of such texts. Ours have room for the ids that there are.
        lengths = (raw_length, raw_length + 1)
        if any(round(n * density) != noise_and_spans(n, density, mean)[0] for n in lengths):
            continue
        compared += 1
        assert objective.targets_length(inputs_length, VOCABULARY) == targets_length
        assert (
            objective.raw_length(VOCABULARY, inputs=inputs_length, targets=targets_length)
            == raw_length
        )
    assert compared > 140


def test_shorter_targets_make_the_text_shorter_and_cut_nothing() -> None:
    objective = SpanCorruption()
    raw_length = objective.raw_length(VOCABULARY, inputs=512, targets=60)
    assert objective.feature_lengths(raw_length, VOCABULARY).targets == 60
    assert objective.feature_lengths(raw_length + 1, VOCABULARY).targets >= 60


@pytest.mark.parametrize("density", [0.15, 0.5])
@pytest.mark.parametrize("raw_length", [2, 3, 5, 20, 77])
def test_ids_are_those_of_the_reference_for_the_same_masks(density: float, raw_length: int) -> None:
    objective = SpanCorruption(density)
    text = random_text(np.random.default_rng(raw_length), 6, raw_length, raw_length // 2)
    lengths = of_lengths(*objective.feature_lengths(raw_length, VOCABULARY)[:2])
    batch = objective(with_noise(text), lengths, VOCABULARY)
    masks = objective.mask(with_noise(text))
    for row, ids in enumerate(texts_of(text)):
        mask = masks[row, : len(ids)].tolist()
        others = [not noise for noise in mask]
        assert batch["inputs"][row].tolist() == padded(with_sentinels(ids, mask), lengths.inputs)
        assert batch["targets"][row].tolist() == padded(
            with_sentinels(ids, others), lengths.targets
        )


def test_known_ids() -> None:
    objective = SpanCorruption(0.5, 1.0)
    text = random_text(np.random.default_rng(0), 1, 4)
    a, b, c, d = text.ids[0].tolist()
    batch = objective(with_noise(text), of_lengths(5, 5), VOCABULARY)
    # Two ids of noise in two spans: only one mask is possible.
    assert batch["inputs"].tolist() == [[a, 32_099, c, 32_098, 1]]
    assert batch["targets"].tolist() == [[32_099, b, 32_098, d, 1]]


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 64.0)])
def test_masks_have_t5s_number_of_ids_and_of_spans(density: float, mean: float) -> None:
    objective = SpanCorruption(density, mean)
    for length in range(2, 200, 7):
        text = random_text(np.random.default_rng(0), 3, 200, length)
        masks = objective.mask(with_noise(text))
        for mask, size in zip(masks, text.lengths.tolist(), strict=True):
            noise, spans = noise_and_spans(size, density, mean)
            begins = np.diff(mask[:size].astype(int), prepend=0) == 1
            assert (int(mask.sum()), int(begins.sum())) == (noise, spans)
            assert not mask[0] and mask[size - 1] and not mask[size:].any()


def test_a_text_of_one_id_has_no_noise() -> None:
    objective = SpanCorruption()
    text = random_text(np.random.default_rng(0), 2, 9, 1)
    batch = objective(with_noise(text), of_lengths(10, 5), VOCABULARY)
    assert batch["inputs"][1].tolist() == padded([int(text.ids[1, 0])], 10)
    assert batch["targets"][1].tolist() == padded([32_099], 5)


def test_all_divisions_into_parts_are_equally_likely() -> None:
    items, parts, draws = 6, 3, 20_000
    keys = np.random.default_rng(0).integers(0, 1 << 64, (draws, 20), np.uint64)
    sizes = random_composition(keys, np.full(draws, items), np.full(draws, parts))
    counts = Counter(map(tuple, sizes.tolist()))
    possible = [
        division
        for division in itertools.product(range(1, items), repeat=parts)
        if sum(division) == items
    ]
    assert set(counts) == set(possible) and len(possible) == 10
    expected = draws / len(possible)
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < CHI_SQUARE_9


def test_all_masks_are_equally_likely() -> None:
    # Four of eight ids in two spans: three divisions of the noise, three of the others.
    objective = SpanCorruption(0.5, 2.0)
    text = random_text(np.random.default_rng(0), 500, 8)
    masks: Counter[tuple[bool, ...]] = Counter()
    for epoch in range(10):
        masks.update(map(tuple, objective.mask(with_noise(text, epoch)).tolist()))
    assert len(masks) == 9
    expected = 5000 / 9
    assert sum((n - expected) ** 2 / expected for n in masks.values()) < CHI_SQUARE_14


def test_rows_of_other_numbers_of_parts_do_not_disturb_each_other() -> None:
    keys = np.random.default_rng(1).integers(0, 1 << 64, (3, 20), np.uint64)
    items, parts = np.array([9, 2, 20]), np.array([4, 1, 20])
    together = random_composition(keys, items, parts)
    assert together.sum(1).tolist() == items.tolist()
    assert (together > 0).sum(1).tolist() == parts.tolist()
    for row in range(3):
        alone = random_composition(keys[row : row + 1], items[row : row + 1], parts[row : row + 1])
        assert together[row, : parts[row]].tolist() == alone[0].tolist()


@settings(max_examples=40, deadline=None)
@given(
    texts=st.integers(1, 5),
    raw_length=st.integers(2, 120),
    last_length=st.integers(1, 120),
    density=st.floats(0.05, 0.7),
    mean=st.floats(1.0, 10.0),
    epoch=st.integers(0, 1000),
)
def test_inputs_and_targets_give_the_text_back(
    texts: int, raw_length: int, last_length: int, density: float, mean: float, epoch: int
) -> None:
    objective = SpanCorruption(density, mean)
    text = random_text(
        np.random.default_rng(epoch), texts, raw_length, min(last_length, raw_length)
    )
    lengths = objective.feature_lengths(raw_length, VOCABULARY)
    batch = objective(with_noise(text, epoch), lengths, VOCABULARY)
    back = [
        restored(inputs, targets)
        for inputs, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True)
    ]
    assert back == texts_of(text)


def test_too_few_sentinels_are_an_error() -> None:
    objective = SpanCorruption(0.5, 1.0)
    assert objective.raw_length(VOCABULARY, inputs=201, targets=201) == 2 * NUM_SENTINELS
    with pytest.raises(DataError, match="T5Vocabulary has 100 sentinels, and a row needs 101"):
        objective.raw_length(VOCABULARY, inputs=203, targets=203)


@pytest.mark.parametrize(
    ("density", "mean", "message"),
    [
        (0.0, 3.0, "noise_density is .*: it must be more than 0 and less than 1"),
        (1.0, 3.0, "noise_density is .*: it must be more than 0 and less than 1"),
        (0.15, 0.5, "mean_noise_span_length is 0.5: it must be at least 1"),
    ],
)
def test_settings_out_of_range_are_errors(density: float, mean: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpanCorruption(density, mean)


def test_features_that_hold_no_text_are_an_error() -> None:
    with pytest.raises(DataError, match="no text fits into inputs of 2 ids"):
        SpanCorruption().targets_length(2, VOCABULARY)
