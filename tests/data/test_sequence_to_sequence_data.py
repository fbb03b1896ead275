"""Batches of pairs with inputs and targets of their own: padding, ends, order and position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun.data import (
    ByteVocabulary,
    DataError,
    DelimitedPairsData,
    LanguageModelData,
    PromptLimits,
    SequenceToSequenceData,
)
from mtfrun.errors import InputError
from tests.data.in_memory import numbered_pairs, pairs_task, texts_task

VOCABULARY = ByteVocabulary()


def _data(count: int = 300, **options: Any) -> SequenceToSequenceData:
    settings = {"inputs_length": 4, "targets_length": 7, "packed": False} | options
    return SequenceToSequenceData(pairs_task(numbered_pairs(count)), **settings)


def _texts(ids: np.ndarray) -> list[str]:
    return [VOCABULARY.decode(row) for row in ids]


def _ids_of_evaluation(data: SequenceToSequenceData, batch: int) -> list[tuple[str, str]]:
    return [
        pair
        for values in data.evaluation(batch)
        for pair in zip(_texts(values["inputs"]), _texts(values["targets"]), strict=True)
    ]


def test_texts_are_ended_padded_and_truncated() -> None:
    (batch,) = _data(9).evaluation(9)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    rows = dict(zip(_texts(batch["inputs"]), batch["targets"].tolist(), strict=True))
    assert [ord("3") + 3, 1, 0, 0] in batch["inputs"].tolist()
    x = ord("x") + 3
    assert rows["2"] == [x, x, 1, 0, 0, 0, 0]
    assert rows["8"] == [x] * 6 + [1]


def test_inputs_may_lose_their_beginning_as_by_the_preprocessors_of_t5_and_seqio() -> None:
    # trim_tokens_at_front: [10, ..., 15] of 4 leaves [13, 14, 15] for an end. truncate_inputs_left
    # counts the end itself.
    task = pairs_task([("abcdef", "uvwxyz"), ("ab", "u")])
    options: dict[str, Any] = {"inputs_length": 4, "targets_length": 4, "cut_at_front": ["inputs"]}
    expected = {("def", "uvw"), ("ab", "u")}
    data = SequenceToSequenceData(task, packed=False, **options)
    assert set(_ids_of_evaluation(data, 2)) == expected
    batch = next(SequenceToSequenceData(task, **options).train(1, seed=0))
    texts = _texts(batch["inputs"])[0], _texts(batch["targets"])[0]
    assert texts in expected
    delimited = DelimitedPairsData(task, packed=False, **options)
    (rows,) = [values["targets"].tolist() for values in delimited.evaluation(2)]
    ids = [byte + 3 for byte in b"def"] + [1] + [byte + 3 for byte in b"uvw"] + [1]
    assert ids in rows
    prompt_format = data.prompt_format(PromptLimits(16, 16))
    row = prompt_format.row(b"abcdef")
    assert (VOCABULARY.decode(row.ids), row.truncated, row.ids[-1]) == ("def", 3, 1)
    scored = prompt_format.scored_row(b"abcdef", b"uvwxyz").features
    assert [VOCABULARY.decode(scored[name]) for name in ("inputs", "targets")] == ["def", "uvw"]
    with pytest.raises(InputError, match="cut_at_front is 'input': it must be 'inputs' or"):
        _data(cut_at_front=["input"])


def test_evaluation_has_every_pair_once_and_fills_batches_with_padding() -> None:
    assert sorted(_ids_of_evaluation(_data(10), 4)) == [
        ("", ""),
        ("", ""),
        *((inputs, targets[:6]) for inputs, targets in numbered_pairs(10)),
    ]


def test_an_evaluation_has_batches_of_similar_length() -> None:
    pairs = [("x" * n, "y" * (2 * n)) for n in range(1, 101)]
    data = SequenceToSequenceData(pairs_task(pairs), inputs_length=128, targets_length=256)
    batches = list(data.evaluation(8))
    assert len({batch["targets"].shape for batch in batches}) > 2
    present = sum(np.count_nonzero(batch["targets"]) for batch in batches)
    assert present == sum(2 * n + 1 for n in range(1, 101))
    assert present > 0.5 * sum(batch["targets"].size for batch in batches)
    assert sorted(_ids_of_evaluation(data, 8))[-100:] == sorted(pairs)


def test_every_epoch_has_all_pairs_in_another_order_that_the_seed_fixes() -> None:
    def epochs(seed: int) -> list[list[str]]:
        batches = _data(300).train(10, seed=seed)
        texts = [text for _ in range(60) for text in _texts(next(batches)["inputs"])]
        return [texts[:300], texts[300:]]

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(300))
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


@pytest.mark.parametrize("packed", [False, True])
def test_batches_from_a_position_are_those_that_would_have_come(packed: bool) -> None:
    data = _data(inputs_length=16, targets_length=20, packed=packed)
    batches = data.train(7, seed=3)
    for _ in range(50):
        next(batches)
    resumed = data.train(7, seed=3)
    resumed.position = batches.position
    for _ in range(50):
        expected = next(batches)
        for name, values in next(resumed).items():
            np.testing.assert_array_equal(values, expected[name])


def test_packed_rows_hold_all_pairs_with_the_same_segments_in_inputs_and_targets() -> None:
    data = _data(300, inputs_length=24, targets_length=28, packed=True)
    batches = data.train(4, seed=0)
    shapes = {name: tuple(shape.to_integer_list) for name, shape in data.shapes(4).items()}
    pairs: set[tuple[str, str]] = set()
    for _ in range(60):
        batch = next(batches)
        assert {name: values.shape for name, values in batch.items()} == shapes
        for row in range(4):
            for segment in range(1, batch["inputs_segmentation"][row].max() + 1):
                texts = []
                for name in ("inputs", "targets"):
                    here = batch[f"{name}_segmentation"][row] == segment
                    positions = batch[f"{name}_position"][row][here]
                    assert positions.tolist() == list(range(here.sum()))
                    texts.append(VOCABULARY.decode(batch[name][row][here]))
                pairs.add((texts[0], texts[1]))
    assert pairs == set(numbered_pairs(300))


def test_a_split_without_pairs_is_an_error() -> None:
    with pytest.raises(DataError, match="holds nothing"):
        _data(0).train(2, seed=0)


def test_data_of_the_other_kind_has_neither_text_nor_pairs() -> None:
    with pytest.raises(
        DataError, match=r"SequenceToSequenceData has no running text: use @data\.La"
    ):
        _data(3).text("train")
    data = LanguageModelData(texts_task((b"text",)), length=8)
    with pytest.raises(DataError, match=r"LanguageModelData has no pairs of texts: use @data\.Seq"):
        data.pairs("train", 1)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(InputError, match=r"targets_length is 0: it must be"):
        _data(targets_length=0)
