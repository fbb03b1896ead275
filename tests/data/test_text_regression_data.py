"""Texts with a number: its id is the target of the first position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import data
from mtfrun.errors import InputError
from tests.data.in_memory import InMemory


def _data(*rows: tuple[bytes, bytes], **settings: Any) -> data.TextRegressionData:
    vocabulary = {"inputs": data.ByteVocabulary(), "targets": data.NumberVocabulary(decimals=1)}
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    return data.TextRegressionData(task, length=8, **settings)


def test_a_number_is_the_target_of_the_first_position() -> None:
    rows = _data((b"ab\tc", b"2.5"), (b"a\tb", b"0"), separators=1)
    (batch,) = rows.evaluation(3)
    assert batch["targets"][:, 0].tolist() == [25, 0, -1] and (batch["targets"][:, 1:] == -1).all()
    assert batch["inputs_types"][0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    arguments = rows.model_arguments()
    assert np.allclose(np.asarray(arguments["numbers"]), np.arange(51) / 10)
    assert arguments["vocabulary_size"] == data.ByteVocabulary().size


def test_numbers_are_rounded_and_written_with_their_decimals() -> None:
    vocabulary = data.NumberVocabulary(-2.0, 2.0, 2)
    assert vocabulary.encode("-0.504").tolist() == [150] and vocabulary.decode([150]) == "-0.50"
    assert vocabulary.encode(b"1e0").tolist() == [300]
    assert (
        len(vocabulary.numbers) == 401 and vocabulary.decode([401]) == vocabulary.decode([]) == ""
    )
    fingerprints = {vocabulary.fingerprint, data.NumberVocabulary(-2.0, 2.0, 1).fingerprint}
    assert len(fingerprints) == 2


@pytest.mark.parametrize("text", ["5.01", "-1", "nan", "inf", "five", ""])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(data.DataError, match=r"is not a number from 0.0 to 5.0"):
        data.NumberVocabulary().encode(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1.0, 2), "from minimum=1.0 to maximum=1.0 there must be 2 to"),
        ((0.0, 1e9, 3), "there must be 2 to 1,048,576 numbers"),
        ((0.0, 1.0, 7), "decimals"),
    ],
)
def test_a_vocabulary_needs_a_range(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.NumberVocabulary(*arguments)


def test_labels_are_not_numbers() -> None:
    vocabulary = {"inputs": data.ByteVocabulary(), "targets": data.LabelVocabulary(["a"])}
    task = data.Task(InMemory(((b"ab", b"a"),), ("inputs", "targets")), vocabulary)
    with pytest.raises(data.DataError, match="give them a NumberVocabulary"):
        data.TextRegressionData(task, length=8).model_arguments()
