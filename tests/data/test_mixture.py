"""Mixtures: rates, choice by name, and the settings that are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mtfrun import data
from mtfrun.errors import InputError
from tests.data.in_memory import numbered_pairs, pairs_task

SMALL = dataclasses.replace(pairs_task(numbered_pairs(3)), name="small")
LARGE = dataclasses.replace(pairs_task(numbered_pairs(40)), name="large")


class _Other(data.ByteVocabulary):
    """Bytes under another fingerprint."""

    @property
    def fingerprint(self) -> str:
        return "other"


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (data.ProportionalToExamples(), [100.0, 10_000.0]),
        (data.ProportionalToExamples(scale=0.5), [50.0, 5_000.0]),
        (data.ProportionalToExamples(maximum=400), [100.0, 400.0]),
        (data.ProportionalToExamples(temperature=2.0), [10.0, 100.0]),
        # The limit holds for the scaled number, and the root is taken last.
        (data.ProportionalToExamples(2.0, 900.0, 2.0), [200.0**0.5, 30.0]),
    ],
)
def test_rates_by_size_are_those_of_t5(
    rate: data.ProportionalToExamples, expected: Sequence[float]
) -> None:
    mixture = data.Mixture([SMALL, LARGE], rate)
    assert mixture.example_rates([100, 10_000]) == pytest.approx(expected)


def test_a_function_of_ones_own_gives_rates() -> None:
    mixture = data.Mixture([SMALL, LARGE], lambda examples: 1.0 + examples)
    assert mixture.example_rates([3, 40]) == [4.0, 41.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": []}, r"tasks is empty"),
        ({"tasks": [SMALL, SMALL]}, r'several tasks have the name "small".*set Task.name'),
        ({"rates": [1.0]}, r"1 rates for 2 tasks"),
        ({"rates": [1.0, 0.0]}, r'the rate of "large" is 0.0: it must be more than 0'),
        ({"max_epochs": {"lagre": 2}}, r"no task \"lagre\".*did you mean 'large'"),
        ({"max_epochs": {"large": 0}}, r"must be an integer of at least 1"),
        ({"max_epochs": {"large": 1, "small": 1}}, r"bounds every task.*TRAIN_STEPS"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.Mixture(**{"tasks": [SMALL, LARGE], "rates": [1.0, 2.0], **settings})


def test_tasks_of_different_vocabularies_are_refused_by_name() -> None:
    mixture = data.Mixture([SMALL, dataclasses.replace(LARGE, vocabulary=_Other())])
    with pytest.raises(data.DataError, match='"small" and "large" have different vocabularies'):
        mixture.vocabulary_of("targets")


def test_a_task_or_a_mixture_is_chosen_by_its_name() -> None:
    mixture = data.Mixture([SMALL, LARGE], name="both")
    assert data.choose("large", [SMALL, LARGE, mixture]) is LARGE
    assert data.choose("both", [SMALL, LARGE, mixture]) is mixture
    with pytest.raises(
        data.DataError, match=r"\"smal\"; there are small, both, did you mean 'small'"
    ):
        data.choose("smal", [SMALL, mixture])
