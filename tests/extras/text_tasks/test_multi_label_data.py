"""Texts with several labels: their ids and an end are the first targets."""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun import data
from mtfrun.extras import text_tasks
from tests.data.in_memory import InMemory

LABELS = ["sport", "money", "art"]


def _data(
    *rows: tuple[bytes, bytes], length: int = 8, **settings: Any
) -> text_tasks.TextClassificationData:
    vocabulary = {"inputs": data.ByteVocabulary(), "targets": text_tasks.LabelSetVocabulary(LABELS)}
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    return text_tasks.TextClassificationData(task, length=length, **settings)


@pytest.mark.parametrize(
    ("settings", "inputs"), [({}, [b"a", b"b", b"c"]), ({"separators": 1}, [b"a\tb"] * 3)]
)
def test_labels_and_their_end_are_the_first_targets(
    settings: dict[str, int], inputs: list[bytes]
) -> None:
    targets = [b"art, sport", b"", b"art,money,sport,art"]
    rows = _data(*zip(inputs, targets, strict=True), **settings)
    (batch,) = rows.evaluation(4)
    assert batch["targets"][:, :4].tolist() == [
        *([0, 2, 3, -1], [3, -1, -1, -1], [0, 1, 2, 3], [-1] * 4)
    ]
    assert (batch["targets"][:, 4:] == -1).all()
    assert rows.model_arguments()["answers"] == rows.vocabulary


def test_labels_are_written_with_the_separator() -> None:
    vocabulary = text_tasks.LabelSetVocabulary(["a, b", "c"], ";")
    assert vocabulary.encode("c ; a, b").tolist() == [0, 1]
    assert vocabulary.decode([0, 1, 2, 0]) == "a, b; c" and vocabulary.decode([2]) == ""
    assert vocabulary.fingerprint != text_tasks.LabelSetVocabulary(["a, b", "c"], "|").fingerprint


@pytest.mark.parametrize("label", ["a, b", " a"])
def test_a_separator_within_a_label_is_refused(label: str) -> None:
    with pytest.raises(data.DataError, match="set another separator"):
        text_tasks.LabelSetVocabulary([label, "c"])


def test_labels_need_room_in_a_row() -> None:
    with pytest.raises(data.DataError, match="length=3 must be at least 4, the number of labels"):
        _ = _data((b"a", b"art"), length=3).features
    with pytest.raises(data.DataError, match='"opera" is none of'):
        text_tasks.LabelSetVocabulary(LABELS).encode("sport, opera")
