"""Labelled words: a label is the target of a word's first id, and an output has one a word."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun import data
from tests.data.in_memory import InMemory

VOCABULARY = data.ByteVocabulary()
END, SPACE = VOCABULARY.end_id, VOCABULARY.encode(" ").tolist()[0]
LABELS = data.LabelVocabulary(["O", "B-PER", "I-PER"], own_softmax=True)
LIMITS = data.PromptLimits(max_length=12, decode_length=12)


def _data(*rows: tuple[bytes, bytes], labels: Any = LABELS) -> data.TokenClassificationData:
    vocabulary = {"inputs": VOCABULARY, "targets": labels}
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    return data.TokenClassificationData(task, length=12)


def _ids(text: str) -> list[int]:
    ids: list[int] = VOCABULARY.encode(text).tolist()
    return ids


def test_a_label_is_the_target_of_the_first_id_of_its_word() -> None:
    rows = _data((b"Ann  Lee ran", b"B-PER I-PER O"), (b"is", b"O"), (b"", b""))
    (batch,) = rows.evaluation(4)
    # Of the third word there is room for two ids.
    assert batch["inputs"].tolist() == [
        [*_ids(" Ann Lee ra"), END],
        [*_ids(" is"), END, *[0] * 8],
        [END, *[0] * 11],
        [0] * 12,
    ]
    nothing = -1
    assert batch["targets"].tolist() == [
        [1, *[nothing] * 3, 2, *[nothing] * 3, 0, *[nothing] * 3],
        [0, *[nothing] * 11],
        [nothing] * 12,
        [nothing] * 12,
    ]
    assert rows.model_arguments() == {"vocabulary_size": VOCABULARY.size, "num_labels": 3}


def test_words_behind_the_end_of_a_row_have_no_label() -> None:
    (batch,) = _data((b"a b c d e f g h", b"O O O O O B-PER O O")).evaluation(1)
    assert batch["inputs"][0].tolist() == [*_ids(" a b c d e "), END]
    assert batch["targets"][0].tolist() == [0, -1] * 5 + [1, -1]


def test_outputs_have_a_label_for_every_word_of_a_prompt() -> None:
    prompts = _data((b"a", b"O")).prompt_format(LIMITS)
    row = prompts.row(b"Ann ran")
    assert row.limit == len(row.ids) == 9 and row.read == 8 and not row.truncated
    features = prompts.features([row], 2, prompts.lengths(row))
    assert features["inputs"][:, :9].tolist() == [[*_ids(" Ann ran"), END], [END, *[0] * 8]]
    ids = np.where(features["targets"][0] == -1, 2, features["targets"][0])
    assert prompts.output(ids[: row.limit]) == "I-PER I-PER"


def test_a_word_without_ids_is_unknown() -> None:
    """A tokenizer may remove all characters of a word."""

    class _WithoutStars(data.ByteVocabulary):
        def encode(self, text: str | bytes) -> np.ndarray:
            return super().encode(b"" if text == b" *" else text)

    task = data.Task(
        InMemory(((b"a * b", b"O B-PER O"),), ("inputs", "targets")),
        {"inputs": _WithoutStars(), "targets": LABELS},
    )
    (batch,) = data.TokenClassificationData(task, length=12).evaluation(1)
    ids = [*_ids(" a"), VOCABULARY.unknown_id, *_ids(" b"), END]
    assert batch["inputs"][0, : len(ids)].tolist() == ids
    assert batch["targets"][0, : len(ids)].tolist() == [0, -1, 1, 0, -1, -1]


def _task(tmp_path: pathlib.Path, row: dict[str, Any]) -> data.Task:
    file = tmp_path / "words.jsonl"
    file.write_text(json.dumps(row) + "\n")
    fields = {"words": "tokens/*", "labels": "ner/*"}
    files = dict.fromkeys(("train", "validation"), str(file))
    source = data.named_dataset("conll2003", fields, files)
    vocabulary = {"inputs": VOCABULARY, "targets": LABELS}
    return data.Task(source, vocabulary, [data.WordLabels(LABELS.labels)], cache_dir=str(tmp_path))


def test_files_have_lists_of_words_and_of_labels(tmp_path: pathlib.Path) -> None:
    task = _task(tmp_path, {"tokens": ["Ann", "ran"], "ner": [1, "O"]})
    assert list(task.texts("train", ["inputs", "targets"])) == [(b"Ann ran", b"B-PER O")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["Ann", "ran"], "ner": [1]}, "has 2 words and 1 labels, .*: 'Ann ran'"),
        ({"tokens": ["Ann Lee"], "ner": [1]}, "'Ann Lee' is not one word"),
        ({"tokens": [""], "ner": [1]}, "'' is not one word"),
        ({"tokens": ["Ann"], "ner": [5]}, 'the label "5" is neither a name nor a number below 3'),
        ({"tokens": ["Ann"]}, r'words.jsonl:1: .*"ner'),
    ],
)
def test_bad_rows_are_refused(tmp_path: pathlib.Path, row: dict[str, Any], message: str) -> None:
    rows = data.TokenClassificationData(_task(tmp_path, row), length=12)
    with pytest.raises(data.DataError, match=message):
        list(rows.evaluation(1))


def test_labels_need_a_softmax_of_their_own() -> None:
    rows = _data((b"a", b"O"), labels=data.LabelVocabulary(["O"]))
    with pytest.raises(data.DataError, match="with own_softmax=True"):
        rows.model_arguments()


def test_a_scored_row_has_the_label_of_every_word_that_fits() -> None:
    prompts = _data((b"a", b"O")).prompt_format(LIMITS)
    scored = prompts.scored_row(b"Ann  Lee was here", b"B-PER I-PER O O")
    assert scored.features["inputs"].tolist() == [*_ids(" Ann Lee wa"), END]
    assert scored.features["targets"].tolist() == [1, *[-1] * 3, 2, *[-1] * 3, 0, *[-1] * 3]
    assert scored.truncated == len("s here") and set(scored.lengths.values()) == {12}
    with pytest.raises(data.DataError, match="has 2 words and 1 labels"):
        prompts.scored_row(b"Ann ran", b"O")
