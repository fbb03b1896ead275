"""Batches of mixtures: proportions, bounded epochs, positions, hosts, and evaluation by task."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import data
from mtfrun.errors import InputError
from tests.data.in_memory import VOCABULARY, numbered_pairs, pairs_task, texts_task

# Inputs of one task begin with "a", those of the other with "b".
SIZES = {"a": 60, "b": 30}
BATCH = 12


def _task(name: str) -> data.Task:
    pairs = [(f"{name}{inputs}", targets) for inputs, targets in numbered_pairs(SIZES[name])]
    return dataclasses.replace(pairs_task(pairs), name=name)


def _rows(packed: bool = False, **mixture: Any) -> data.SequenceToSequenceData:
    tasks = data.Mixture([_task("a"), _task("b")], **mixture)
    lengths = (40, 40) if packed else (8, 12)
    return data.SequenceToSequenceData(tasks, *lengths, packed=packed)


def _inputs(batches: Iterable[data.Batch]) -> list[str]:
    texts: list[str] = []
    for batch in batches:
        for row in batch["inputs"]:
            ends = np.flatnonzero(row == VOCABULARY.end_id)
            texts += [VOCABULARY.decode(ids) for ids in np.split(row, ends + 1)[:-1]]
    return texts


def _first(rows: data.Data, count: int, **options: Any) -> list[data.Batch]:
    return list(itertools.islice(rows.train(BATCH, seed=1, **options), count))


@pytest.mark.parametrize(
    ("rates", "shares"), [([1.0, 3.0], (1, 3)), (data.ProportionalToExamples(), (2, 1))]
)
def test_training_draws_examples_in_proportion_to_the_rates(
    rates: Any, shares: tuple[int, int]
) -> None:
    counts = collections.Counter(text[0] for text in _inputs(_first(_rows(rates=rates), 25)))
    assert counts["a"] * shares[1] == pytest.approx(counts["b"] * shares[0], abs=sum(shares))
    assert counts.total() == 25 * BATCH


@pytest.mark.slow
def test_rates_are_those_of_examples_however_many_a_row_holds() -> None:
    short = [("b", "") for _ in range(100)]
    long = [("a" * 18, "a" * 18) for _ in range(100)]
    tasks = [
        dataclasses.replace(pairs_task(pairs), name=name)
        for name, pairs in (("short", short), ("long", long))
    ]
    rows = data.SequenceToSequenceData(data.Mixture(tasks, [1.0, 1.0]), 20, 20)
    counts = collections.Counter(text[0] for text in _inputs(_first(rows, 90)))
    # 10 short pairs fit into a row, and 1 long one.
    assert counts["b"] == pytest.approx(counts["a"], rel=0.02)


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_task_that_had_its_epochs_is_no_longer_drawn(packed: bool) -> None:
    rows = _rows(packed, rates=[1.0, 1.0], max_epochs={"b": 2})
    counts = collections.Counter(_inputs(_first(rows, 60)))
    assert {text: n for text, n in counts.items() if text[0] == "b"} == {
        f"b{i}": 2 for i in range(SIZES["b"])
    }
    assert min(counts.values()) == 2
    assert max(counts.values()) > 5


@pytest.mark.parametrize("packed", [False, True])
def test_a_mixture_continues_at_a_position_exactly(packed: bool) -> None:
    # The limit of "b" is reached before the end of these batches.
    rows = _rows(packed, rates=[1.0, 2.0], max_epochs={"b": 1})
    expected = _inputs(_first(rows, 12))
    batches = rows.train(BATCH, seed=1)
    texts = _inputs(next(batches) for _ in range(2))
    for batch, count in ((4, 9), (BATCH, 7)):
        position = batches.position
        batches = rows.train(batch, seed=1)
        batches.position = position
        texts += _inputs(next(batches) for _ in range(count))
    assert texts == expected


def test_running_text_is_mixed_by_rows() -> None:
    tasks = [
        dataclasses.replace(texts_task([letter * 1000]), name=letter.decode())
        for letter in (b"a", b"b")
    ]
    rows = data.LanguageModelData(data.Mixture(tasks, [3.0, 1.0]), 16)
    ids = np.concatenate([batch["targets"].ravel() for batch in _first(rows, 20)])
    counts = np.bincount(ids, minlength=256)
    assert counts[VOCABULARY.encode("a")[0]] / counts[VOCABULARY.encode("b")[0]] == pytest.approx(
        3.0, rel=0.05
    )


def test_every_task_is_evaluated_by_itself() -> None:
    rows = _rows(rates=[1.0, 1.0])
    assert list(rows.by_task()) == ["a", "b"]
    for name, part in rows.by_task().items():
        expected = sorted(f"{name}{i}" for i in range(SIZES[name]))
        assert sorted(_inputs(part.evaluation(BATCH, split="validation"))) == expected
        assert list(part.by_task()) == [""]


def test_a_subset_of_an_evaluation_is_random_and_always_the_same() -> None:
    part = _rows().by_task()["a"]

    def subset() -> list[str]:
        return _inputs(part.evaluation_subset(BATCH, 2, split="validation"))

    assert subset() == subset()
    assert len(set(subset())) == 2 * BATCH
    numbers = [int(text[1:]) for text in subset()]
    assert max(numbers) > SIZES["a"] / 2 > min(numbers)
    assert len(_inputs(part.evaluation_subset(BATCH, 100, split="validation"))) == SIZES["a"]


def test_pairs_to_decode_are_a_random_choice_of_every_task() -> None:
    pairs = _rows().pairs("validation", 20)
    assert collections.Counter(inputs[:1] for inputs, _ in pairs) == {b"a": 10, b"b": 10}
    assert max(int(inputs[1:]) for inputs, _ in pairs) > 15
    assert pairs == _rows().pairs("validation", 20)
    everything = dict(numbered_pairs(60))
    assert all(everything[inputs[1:].decode()] == target.decode() for inputs, target in pairs)
    assert len(_rows().pairs("validation", 1000)) == sum(SIZES.values())


def test_the_examples_seen_of_every_task_are_counted_at_any_position() -> None:
    rows = _rows(rates=[1.0, 2.0], max_epochs={"b": 2})
    counts = collections.Counter(text[0] for text in _inputs(_first(rows, 9)))
    assert rows.train(BATCH, seed=1).examples_before(9 * BATCH) == counts
    packed = _rows(packed=True, rates=[1.0, 1.0])
    seen = packed.train(BATCH, seed=1).examples_before(100 * BATCH)
    assert seen["a"] == pytest.approx(seen["b"], rel=0.1)
    assert list(packed.by_task()["a"].train(BATCH, seed=1).examples_before(9)) == [""]


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
        (lambda examples: 1.0 + examples, [101.0, 10_001.0]),
    ],
)
def test_rates_by_size_are_those_of_t5(
    rate: Callable[[int], float], expected: Sequence[float]
) -> None:
    mixture = data.Mixture([SMALL, LARGE], rate)
    assert mixture.example_rates([100, 10_000]) == pytest.approx(expected)


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
    with pytest.raises(data.DataError, match=r"\"smal\"; it has small, both, did you mean 'small'"):
        data.choose("smal", [SMALL, mixture])
