"""Rows of "inputs end targets end": ends, packing, order and position."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from mtfrun.data import ByteVocabulary, DelimitedPairsData
from tests.data.in_memory import numbered_pairs, pairs_task

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
