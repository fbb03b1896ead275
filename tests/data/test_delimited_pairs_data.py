"""Rows of "inputs end targets end": ends, packing, order and position."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from mtfrun.data import ByteVocabulary, DataError, DelimitedPairsData, Infeed
from mtfrun.mtf import Mesh
from tests.data.in_memory import numbered_pairs, pairs_task
from tests.layouts import ONE_DEVICE

VOCABULARY = ByteVocabulary()
INPUTS_LENGTH, TARGETS_LENGTH = 4, 7
PACKED_ROW = 25
A, X = ord("a") + 3, ord("x") + 3


def _data(pairs: Iterable[tuple[str, str]], **options: Any) -> DelimitedPairsData:
    return DelimitedPairsData(pairs_task(pairs), INPUTS_LENGTH, TARGETS_LENGTH, **options)


def _pairs(rows: np.ndarray) -> list[tuple[str, str]]:
    """Returns the pairs of rows [rows, length], and checks that they hold nothing else."""
    pairs: list[tuple[str, str]] = []
    for row in rows:
        ids = row[: np.count_nonzero(row)]
        assert not row[len(ids) :].any(), "padding follows the pairs"
        assert not ids.size or ids[-1] == VOCABULARY.end_id
        ids_of_texts = np.split(ids, np.flatnonzero(ids == VOCABULARY.end_id) + 1)[:-1]
        assert len(ids_of_texts) % 2 == 0, "inputs and targets alternate"
        texts = [VOCABULARY.decode(text) for text in ids_of_texts]
        pairs += zip(texts[::2], texts[1::2], strict=True)
    return pairs


def _truncated(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(i[: INPUTS_LENGTH - 1], t[: TARGETS_LENGTH - 1]) for i, t in pairs]


def _train_pairs(data: DelimitedPairsData, seed: int, batches: int) -> list[tuple[str, str]]:
    trained = data.train(4, seed=seed)
    return _pairs(np.concatenate([next(trained)["targets"] for _ in range(batches)]))


def test_a_row_is_a_pair_with_two_ends() -> None:
    pairs = [("a", "xx"), ("", "x"), ("a", ""), ("", "")]
    (batch,) = _data(pairs, packed=False).evaluation(4)
    assert set(batch) == {"targets"} and batch["targets"].dtype == np.int32
    rows = [[A, 1, X, X, 1], [1, X, 1], [A, 1, 1], [1, 1]]
    expected = [row + [0] * (11 - len(row)) for row in rows]
    assert sorted(batch["targets"].tolist()) == sorted(expected)


def test_packed_pairs_have_segments_and_positions_of_their_own() -> None:
    pairs = [("a", "xx"), ("aaa", "xxxxxx"), ("", "x"), ("a", "")]
    data = _data(pairs, length=12)
    batch = next(data.train(2, seed=0))
    assert {name: (x.dtype, x.shape) for name, x in batch.items()} == {
        name: (np.dtype(np.int32), tuple(shape.to_integer_list))
        for name, shape in data.shapes(2).items()
    }
    # One row holds the longest pair, the other one the rest.
    one, three = np.argsort(batch["targets_segmentation"].max(axis=1))
    assert batch["targets"][one].tolist() == [*[A] * 3, 1, *[X] * 6, 1, 0]
    assert batch["targets_segmentation"][one].tolist() == [1] * 11 + [0]
    assert batch["targets_position"][one].tolist() == [*range(11), 0]
    assert sorted(_pairs(batch["targets"][three : three + 1])) == sorted(pairs[:1] + pairs[2:])
    segments = batch["targets_segmentation"][three]
    lengths = np.bincount(segments)[1:].tolist()
    assert sorted(lengths) == [3, 3, 5] and segments[-1] == 0
    assert segments[:-1].tolist() == np.repeat([1, 2, 3], lengths).tolist()
    positions = [i for length in lengths for i in range(length)]
    assert batch["targets_position"][three].tolist() == [*positions, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_texts_that_are_too_long_are_truncated_before_their_end(packed: bool) -> None:
    pairs = [("a" * i, "x" * t) for i in (0, 2, 3, 4, 5, 900) for t in (0, 5, 6, 7, 8, 2000)]
    data = _data(pairs, packed=packed, length=PACKED_ROW)
    evaluated = _pairs(np.concatenate([batch["targets"] for batch in data.evaluation(3)]))
    assert collections.Counter(evaluated) == collections.Counter(_truncated(pairs))
    assert set(_train_pairs(data, 0, 40)) == set(_truncated(pairs))


def test_evaluation_has_every_pair_once() -> None:
    pairs = numbered_pairs(1300)
    batches = list(_data(pairs, length=PACKED_ROW).evaluation(8))
    decoded = [pair for batch in batches for pair in _pairs(batch["targets"])]
    assert sorted(decoded) == sorted(_truncated(pairs))


def test_every_epoch_has_all_pairs_in_another_order_that_the_seed_fixes() -> None:
    pairs = numbered_pairs(256)

    def epochs(seed: int) -> list[list[tuple[str, str]]]:
        trained = _train_pairs(_data(pairs, packed=False), seed, 128)
        return [trained[:256], trained[256:]]

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == sorted(_truncated(pairs))
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_packed_training_loses_no_pair_and_wastes_little() -> None:
    pairs = numbered_pairs(256)
    batches = _data(pairs, length=PACKED_ROW).train(1, seed=0)
    trained: list[tuple[str, str]] = []
    present = size = 0
    while len(trained) < 2 * 256:
        targets = next(batches)["targets"]
        trained += _pairs(targets)
        present += int(np.count_nonzero(targets))
        size += targets.size
    counts = collections.Counter(trained)
    assert counts == {
        pair: 2 * count for pair, count in collections.Counter(_truncated(pairs)).items()
    }
    assert present > 0.9 * size  # 0.4 with one pair per row


@pytest.mark.parametrize("packed", [False, True])
def test_batches_from_a_position_are_those_that_would_have_come(packed: bool) -> None:
    data = _data(numbered_pairs(300), packed=packed, length=PACKED_ROW)
    batches = data.train(7, seed=3)
    for _ in range(60):
        next(batches)
    resumed = data.train(7, seed=3)
    resumed.position = batches.position
    expected = [next(batches)["targets"] for _ in range(60)]
    assert len({rows.tobytes() for rows in expected}) == 60
    np.testing.assert_array_equal([next(resumed)["targets"] for _ in range(60)], expected)


@pytest.mark.parametrize("packed", [False, True])
def test_batches_reach_the_mesh(packed: bool) -> None:
    data = _data(numbered_pairs(30), packed=packed)
    features = Infeed(data.train(4, seed=0), Mesh(ONE_DEVICE), data.shapes(4)).next(2)
    assert features is not None
    assert {x.shape.to_string for x in features.values()} == {"steps:2;batch:4;length:11"}
    assert len(features) == (3 if packed else 1)


def test_a_row_that_is_too_short_for_the_longest_pair_is_an_error() -> None:
    expected = "length=10 must be at least inputs_length + targets_length = 4 + 7 = 11"
    with pytest.raises(DataError, match=f"DelimitedPairsData: {re.escape(expected)}"):
        _data([("a", "x")], length=10)


def test_a_split_without_pairs_is_an_error() -> None:
    with pytest.raises(DataError, match="holds nothing"):
        _data([]).train(2, seed=0)
