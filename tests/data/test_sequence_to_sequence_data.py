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
