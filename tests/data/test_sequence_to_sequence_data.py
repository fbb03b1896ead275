"""Batches of pairs: padding, ends, order, and saved positions."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.data import (
    ByteVocabulary,
    DataError,
    LanguageModelData,
    SequenceToSequenceData,
    TsvPairs,
)
from tests.data.in_memory import InMemory, InMemoryPairs, numbered_pairs

VOCABULARY = ByteVocabulary()


def _data(count: int = 300, **options: int) -> SequenceToSequenceData:
    """Returns pairs (str(i), "x" * (i % 9)) of numbers."""
    sizes = {"inputs_length": 4, "targets_length": 7, "shuffle_buffer": 50} | options
    return SequenceToSequenceData(InMemoryPairs(numbered_pairs(count)), VOCABULARY, **sizes)


def _texts(ids: np.ndarray) -> list[str]:
    return [VOCABULARY.decode(row) for row in ids]


def test_texts_are_ended_padded_and_truncated() -> None:
    (batch,) = _data(9).evaluation(9).as_numpy_iterator()
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    assert batch["inputs"][3].tolist() == [ord("3") + 3, 1, 0, 0]
    x = ord("x") + 3
    assert batch["targets"][2].tolist() == [x, x, 1, 0, 0, 0, 0]
    assert batch["targets"][8].tolist() == [x] * 6 + [1]


def test_evaluation_has_every_pair_once_and_fills_the_last_batch_with_padding() -> None:
    batches = list(_data(10).evaluation(4).as_numpy_iterator())
    assert [batch["inputs"].shape for batch in batches] == [(4, 4)] * 3
    inputs = np.concatenate([batch["inputs"] for batch in batches])
    assert _texts(inputs) == [str(i) for i in range(10)] + ["", ""]
    assert not inputs[10:].any() and not batches[2]["targets"][2:].any()


def test_every_epoch_has_all_pairs_in_another_order_that_the_seed_fixes() -> None:
    def epochs(seed: int) -> list[list[str]]:
        batches = _data(300).train(10, seed=seed).take(60).as_numpy_iterator()
        texts = [text for batch in batches for text in _texts(batch["inputs"])]
        return [texts[:300], texts[300:]]

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(300))
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_a_restored_iterator_continues_with_the_same_batches(tmp_path: pathlib.Path) -> None:
    iterator = iter(_data().train(7, seed=3))
    for _ in range(50):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    expected = [next(iterator)["inputs"].numpy() for _ in range(50)]
    restored = iter(_data().train(7, seed=3))
    tf.train.Checkpoint(iterator=restored).restore(path)
    np.testing.assert_array_equal([next(restored)["inputs"].numpy() for _ in range(50)], expected)


def test_a_split_without_pairs_is_an_error() -> None:
    with pytest.raises(DataError, match="holds no pair"):
        _data(0).train(2, seed=0)


def test_data_of_the_other_kind_has_neither_text_nor_pairs() -> None:
    with pytest.raises(
        DataError, match=r"SequenceToSequenceData has no running text: use @data\.La"
    ):
        _data(3).text("train")
    data = LanguageModelData(InMemory((b"text",)), VOCABULARY, length=8)
    with pytest.raises(DataError, match=r"LanguageModelData has no pairs of texts: use @data\.Seq"):
        data.pairs("train", 1)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(DataError, match="targets_length must be at least 1, not 0"):
        _data(targets_length=0)


def test_a_tsv_file_has_an_input_and_a_target_per_line(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes("one\t1\r\ntwo\t\nzwölf\t12".encode())
    source = TsvPairs({"train": str(file)})
    assert source.splits == ("train",)
    pairs = [tuple(pair.values()) for pair in source.pairs("train").as_numpy_iterator()]
    assert pairs == [(b"one", b"1"), (b"two", b""), ("zwölf".encode(), b"12")]


@pytest.mark.parametrize("content", ["no tab\n", "a\tb\tc\n"])
def test_a_tsv_line_without_exactly_one_tab_is_an_error(
    tmp_path: pathlib.Path, content: str
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(content)
    with pytest.raises(DataError, match="needs one tab"):
        TsvPairs({"train": str(file)}).pairs("train")


def test_the_error_of_a_tsv_line_has_its_number(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("a\tb\na b\n")
    with pytest.raises(DataError, match=rf"^{file}:2: a line needs one tab, .* this one has 0$"):
        TsvPairs({"train": str(file)}).pairs("train")
