"""Rows of "inputs end targets end": ends, packing, order and position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mtfrun.data import ByteVocabulary, DelimitedPairsData
from tests.data.in_memory import pairs_task

VOCABULARY = ByteVocabulary()
INPUTS_LENGTH, TARGETS_LENGTH = 4, 7
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
