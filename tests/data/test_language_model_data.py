"""Batches of running text for training and evaluation: contents, order and position."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mtfrun.data import DataError, Host, LanguageModelData
from mtfrun.errors import InputError
from tests.data.in_memory import texts_task

LENGTH = 16
BATCH = 4
TEXTS = tuple(f"{i}:".encode() * (5 + 7 * i % 40) for i in range(90))
DATA = LanguageModelData(texts_task(TEXTS), LENGTH)
NUM_TOKENS = sum(len(text) + 1 for text in TEXTS)
ROWS_PER_EPOCH = -(-NUM_TOKENS // LENGTH)


def train_targets(seed: int, count: int, data: LanguageModelData = DATA) -> np.ndarray:
    """Returns the targets of the first `count` training batches, [count, batch, length]."""
    batches = data.train(BATCH, seed=seed)
    return np.stack([batch["targets"] for batch in itertools.islice(batches, count)])


def test_an_epoch_has_every_token_once_and_another_order_than_the_one_before() -> None:
    rows = train_targets(seed=0, count=3 * ROWS_PER_EPOCH // BATCH).reshape(-1, LENGTH)
    expected = np.bincount([*b"".join(TEXTS)], minlength=256)
    orders = set()
    for epoch in range(2):
        tokens = rows[epoch * ROWS_PER_EPOCH : (epoch + 1) * ROWS_PER_EPOCH]
        counts = np.bincount(tokens.reshape(-1), minlength=259)
        np.testing.assert_array_equal(counts[3:259], expected)
        assert counts[1] == len(TEXTS)
        orders.add(tokens.tobytes())
    assert len(orders) == 2


def test_the_seed_fixes_the_order_and_another_seed_gives_another() -> None:
    np.testing.assert_array_equal(train_targets(seed=7, count=40), train_targets(seed=7, count=40))
    assert (train_targets(seed=7, count=40) != train_targets(seed=8, count=40)).any()


def test_evaluation_has_every_token_once_in_order_and_fills_the_last_batch() -> None:
    batch = 7
    batches = list(DATA.evaluation(batch))
    assert {b["targets"].shape for b in batches} == {(batch, LENGTH)}
    assert len(batches) == -(-ROWS_PER_EPOCH // batch)
    stream = np.concatenate([b["targets"] for b in batches]).reshape(-1)
    expected = [token for text in TEXTS for token in [*(byte + 3 for byte in text), 1]]
    assert stream[:NUM_TOKENS].tolist() == expected
    assert not stream[NUM_TOKENS:].any()


@pytest.mark.parametrize("whole_documents", [False, True])
def test_batches_from_any_position_are_those_that_would_have_come(whole_documents: bool) -> None:
    data = LanguageModelData(texts_task(TEXTS), LENGTH, whole_documents)
    examples = train_targets(seed=1, count=3 * ROWS_PER_EPOCH // BATCH, data=data)
    examples = examples.reshape(-1, LENGTH)
    for position in (1, ROWS_PER_EPOCH - 2, ROWS_PER_EPOCH, 2 * ROWS_PER_EPOCH + 5):
        for batch in (BATCH, 6):
            resumed = data.train(batch, seed=1)
            resumed.position = position
            rows = np.concatenate([next(resumed)["targets"] for _ in range(5)])
            np.testing.assert_array_equal(rows, examples[position : position + 5 * batch])
            assert resumed.position == position + 5 * batch


@pytest.mark.parametrize(
    "parts_of_rows", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 2, 7], [1, 3, 4, 5, 6]]]
)
def test_hosts_read_parts_of_the_same_batches(parts_of_rows: list[list[int]]) -> None:
    whole = DATA.train(8, seed=3)
    parts = [DATA.train(8, seed=3, host=Host(rows)) for rows in parts_of_rows]
    for _ in range(2 * ROWS_PER_EPOCH // 8):
        expected = next(whole)
        for part, rows in zip(parts, parts_of_rows, strict=True):
            for name, values in next(part).items():
                np.testing.assert_array_equal(values, expected[name][rows])
    for rows in ([8], [-1, 0], []):
        with pytest.raises(DataError, match="are not rows of a batch of 8"):
            DATA.train(8, seed=3, host=Host(rows))


@pytest.mark.parametrize("texts", [(), (b"",) * 70])
def test_a_split_without_text_is_an_error_and_not_an_endless_wait(texts: tuple[bytes, ...]) -> None:
    data = LanguageModelData(texts_task(texts), LENGTH)
    expected = "holds nothing: choose another source or split"
    with pytest.raises(DataError, match=expected):
        data.train(BATCH, seed=0)
    with pytest.raises(DataError, match=expected):
        data.evaluation(BATCH)


def test_a_size_below_one_is_an_error() -> None:
    with pytest.raises(InputError, match=r"LanguageModelData.length is 0: it must be"):
        LanguageModelData(texts_task(TEXTS), 0)
    with pytest.raises(InputError, match=r"batch is -1: it must be"):
        DATA.train(-1, seed=0)
    with pytest.raises(InputError, match=r"batch is -1: it must be"):
        DATA.evaluation(-1)
