"""Rows of "inputs end targets end": ends, packing, order, and saved positions."""

from __future__ import annotations

import collections
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.data import ByteVocabulary, DataError, DelimitedPairsData, Infeed
from mtfrun.mtf import Mesh
from tests.data.in_memory import InMemoryPairs, numbered_pairs
from tests.layouts import ONE_DEVICE

VOCABULARY = ByteVocabulary()
INPUTS_LENGTH, TARGETS_LENGTH = 4, 7
PACKED_ROW = 25
A, X = ord("a") + 3, ord("x") + 3


def _data(pairs: Iterable[tuple[str, str]], **options: Any) -> DelimitedPairsData:
    source = InMemoryPairs(tuple(pairs))
    return DelimitedPairsData(
        source, VOCABULARY, INPUTS_LENGTH, TARGETS_LENGTH, shuffle_buffer=50, **options
    )


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
    iterator = data.train(4, seed=seed).take(batches).as_numpy_iterator()
    return _pairs(np.concatenate([batch["targets"] for batch in iterator]))


def test_a_row_is_a_pair_with_two_ends() -> None:
    pairs = [("a", "xx"), ("", "x"), ("a", ""), ("", "")]
    (batch,) = _data(pairs, packed=False).evaluation(4).as_numpy_iterator()
    assert set(batch) == {"targets"} and batch["targets"].dtype == np.int32
    rows = [[A, 1, X, X, 1], [1, X, 1], [A, 1, 1], [1, 1]]
    assert batch["targets"].tolist() == [row + [0] * (11 - len(row)) for row in rows]


def test_packed_pairs_have_segments_and_positions_of_their_own() -> None:
    pairs = [("a", "xx"), ("aaa", "xxxxxx"), ("", "x"), ("a", "")]
    data = _data(pairs, length=12)
    (batch,) = data.evaluation(3).as_numpy_iterator()
    assert {name: (x.dtype, x.shape) for name, x in batch.items()} == {
        name: (np.int32, tuple(shape.to_integer_list)) for name, shape in data.shapes(3).items()
    }
    # The third and the fourth pair fit behind the first.
    first = [*(A, 1, X, X, 1), *(1, X, 1), *(A, 1, 1), 0]
    second = [*[A] * 3, 1, *[X] * 6, 1, 0]
    assert batch["targets"].tolist() == [first, second, [0] * 12]
    segments = [[1] * 5 + [2] * 3 + [3] * 3 + [0], [1] * 11 + [0], [0] * 12]
    assert batch["targets_segmentation"].tolist() == segments
    positions = [[*range(5), *range(3), *range(3), 0], [*range(11), 0], [0] * 12]
    assert batch["targets_position"].tolist() == positions


@pytest.mark.parametrize("options", [{"packed": False}, {"packed": True, "length": PACKED_ROW}])
def test_texts_that_are_too_long_are_truncated_before_their_end(options: dict[str, Any]) -> None:
    pairs = [("a" * i, "x" * t) for i in (0, 2, 3, 4, 5, 900) for t in (0, 5, 6, 7, 8, 2000)]
    batches = list(_data(pairs, **options).evaluation(3).as_numpy_iterator())
    decoded = _pairs(np.concatenate([batch["targets"] for batch in batches]))
    assert collections.Counter(decoded) == collections.Counter(_truncated(pairs))
    assert ("aaa", "xxxxxx") in decoded


@pytest.mark.parametrize("options", [{"packed": False}, {"packed": True, "length": PACKED_ROW}])
def test_evaluation_has_every_pair_once(options: dict[str, Any]) -> None:
    pairs = numbered_pairs(1300)  # several calls of the packing
    data = _data(pairs, **options)
    batches = list(data.evaluation(8).as_numpy_iterator())
    rows = np.concatenate([batch["targets"] for batch in batches])
    assert rows.shape == (8 * len(batches), data.tokens_per_row)
    assert sorted(_pairs(rows)) == sorted(_truncated(pairs))
    if data.packed:
        nonempty = rows[rows.any(axis=1)]
        assert np.mean(nonempty != 0) > 0.85  # 0.4 with one pair per row


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


def test_packed_training_loses_no_pair() -> None:
    pairs = numbered_pairs(256)
    data = _data(pairs, length=PACKED_ROW)
    # One call packs two epochs, whose rows come first.
    (rows,) = data.train(1, seed=0).batch(1000).take(1).as_numpy_iterator()
    counts = collections.Counter(_pairs(rows["targets"][:, 0])[: 2 * 256])
    assert counts == {
        pair: 2 * count for pair, count in collections.Counter(_truncated(pairs)).items()
    }


@pytest.mark.parametrize("packed", [False, True])
def test_a_restored_iterator_continues_with_the_same_batches(
    packed: bool, tmp_path: pathlib.Path
) -> None:
    data = _data(numbered_pairs(300), packed=packed, length=PACKED_ROW)
    iterator = iter(data.train(7, seed=3))
    for _ in range(60):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    expected = [next(iterator)["targets"].numpy() for _ in range(60)]
    assert len({rows.tobytes() for rows in expected}) == 60
    restored = iter(data.train(7, seed=3))
    tf.train.Checkpoint(iterator=restored).restore(path)
    actual = [next(restored)["targets"].numpy() for _ in range(60)]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("packed", [False, True])
def test_batches_reach_the_mesh(packed: bool) -> None:
    data = _data(numbered_pairs(30), packed=packed)
    infeed = Infeed(iter(data.train(4, seed=0)), Mesh(ONE_DEVICE), data.shapes(4))
    features = infeed.next(2)
    assert features is not None
    assert {x.shape.to_string for x in features.values()} == {"steps:2;batch:4;length:11"}
    assert len(features) == (3 if packed else 1)


def test_a_row_that_is_too_short_for_the_longest_pair_is_an_error() -> None:
    expected = "length=10 must be at least inputs_length + targets_length = 4 + 7 = 11"
    with pytest.raises(DataError, match=f"DelimitedPairsData: {re.escape(expected)}"):
        _data([("a", "x")], length=10)
    with pytest.raises(DataError, match="DelimitedPairsData: shuffle_buffer must be at least 1"):
        DelimitedPairsData(InMemoryPairs(()), VOCABULARY, 4, 7, shuffle_buffer=0)


def test_a_split_without_pairs_is_an_error() -> None:
    with pytest.raises(DataError, match="holds no pair"):
        _data([]).train(2, seed=0)
