"""Batches for training and evaluation: contents, order, and saved positions."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.data import ByteVocabulary, DataError, LanguageModelData
from tests.data.in_memory import InMemory

LENGTH = 16
BATCH = 4
TEXTS = tuple(f"{i}:".encode() * (5 + 7 * i % 40) for i in range(90))
DATA = LanguageModelData(InMemory(TEXTS), ByteVocabulary(), LENGTH, shuffle_buffer=50)
NUM_TOKENS = sum(len(text) + 1 for text in TEXTS)
ROWS_PER_EPOCH = -(-NUM_TOKENS // LENGTH)


def train_targets(seed: int, count: int, data: LanguageModelData = DATA) -> np.ndarray:
    """Returns the targets of the first `count` training batches, [count, batch, length]."""
    batches = data.train(BATCH, seed=seed).as_numpy_iterator()
    return np.stack([batch["targets"] for batch in itertools.islice(batches, count)])


def test_training_never_ends_and_batches_are_full() -> None:
    targets = train_targets(seed=0, count=3 * ROWS_PER_EPOCH // BATCH + 1)
    assert targets.shape[1:] == (BATCH, LENGTH)
    assert targets.dtype == np.int32


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


def test_training_order_is_not_the_order_of_the_documents() -> None:
    in_order = np.concatenate([b["targets"] for b in DATA.evaluation(BATCH).as_numpy_iterator()])
    shuffled = train_targets(seed=0, count=10).reshape(-1, LENGTH)
    assert (shuffled != in_order[: len(shuffled)]).any(axis=1).mean() > 0.9


def test_evaluation_has_every_token_once_in_order_and_fills_the_last_batch() -> None:
    batch = 7
    batches = list(DATA.evaluation(batch).as_numpy_iterator())
    assert {b["targets"].shape for b in batches} == {(batch, LENGTH)}
    assert len(batches) == -(-ROWS_PER_EPOCH // batch)
    stream = np.concatenate([b["targets"] for b in batches]).reshape(-1)
    expected = [token for text in TEXTS for token in [*(byte + 3 for byte in text), 1]]
    assert stream[:NUM_TOKENS].tolist() == expected
    assert not stream[NUM_TOKENS:].any()


def test_bytes_per_id_counts_the_bytes_of_an_evaluation() -> None:
    table = DATA.vocabulary.bytes_per_id
    counted = sum(int(table[b["targets"]].sum()) for b in DATA.evaluation(7).as_numpy_iterator())
    assert counted == sum(map(len, TEXTS))


def test_a_restored_iterator_continues_bit_identically_from_any_position(tmp_path: Path) -> None:
    # Before the end of an epoch the documents are exhausted while rows remain in the buffer: there
    # a plain shuffle(...).repeat() loses the seed of the next epoch.
    per_epoch = ROWS_PER_EPOCH // BATCH
    uninterrupted = train_targets(seed=1, count=3 * per_epoch)
    for position in [1, *range(per_epoch - 20, per_epoch + 2, 3)]:
        iterator = iter(DATA.train(BATCH, seed=1))
        for _ in range(position):
            next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
        resumed = iter(DATA.train(BATCH, seed=1))
        tf.train.Checkpoint(iterator=resumed).read(path).assert_consumed()
        targets = [next(resumed)["targets"].numpy() for _ in range(3 * per_epoch - position)]
        np.testing.assert_array_equal(np.stack(targets), uninterrupted[position:], str(position))


RESUME = """
import sys
import numpy as np
import tensorflow as tf
from tests.data.test_language_model_data import BATCH, DATA

iterator = iter(DATA.train(BATCH, seed=5))
tf.train.Checkpoint(iterator=iterator).read(sys.argv[1]).assert_consumed()
np.save(sys.argv[2], np.stack([next(iterator)["targets"].numpy() for _ in range(60)]))
"""


def test_a_new_process_continues_bit_identically(tmp_path: Path) -> None:
    iterator = iter(DATA.train(BATCH, seed=5))
    for _ in range(ROWS_PER_EPOCH // BATCH + 3):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
    expected = np.stack([next(iterator)["targets"].numpy() for _ in range(60)])
    output = tmp_path / "targets.npy"
    subprocess.run([sys.executable, "-c", RESUME, path, str(output)], check=True, timeout=300)
    np.testing.assert_array_equal(np.load(output), expected)


@pytest.mark.parametrize("texts", [(), (b"",) * 70])
def test_a_split_without_text_is_an_error_and_not_an_endless_wait(texts: tuple[bytes, ...]) -> None:
    data = LanguageModelData(InMemory(texts), ByteVocabulary(), LENGTH)
    expected = "holds no text; choose another source or split"
    with pytest.raises(DataError, match=expected):
        data.train(BATCH, seed=0)
    with pytest.raises(DataError, match=expected):
        data.evaluation(BATCH)


@pytest.mark.parametrize("name", ["length", "shuffle_buffer"])
def test_a_size_below_one_is_an_error(name: str) -> None:
    sizes = {"length": 8, "shuffle_buffer": 8, name: 0}
    with pytest.raises(DataError, match=f"LanguageModelData: {name} must be at least 1, not 0"):
        LanguageModelData(InMemory(TEXTS), ByteVocabulary(), **sizes)
    with pytest.raises(DataError, match="LanguageModelData: batch must be at least 1, not -1"):
        DATA.train(-1, seed=0)
