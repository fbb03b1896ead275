"""Data of encoders: labels, numbers and classes of words."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun import data
from mtfrun.data import ByteVocabulary, DataError, IdVocabulary, PromptLimits, Task
from mtfrun.errors import InputError
from mtfrun.extras import t5, text_tasks
from mtfrun.extras.text_tasks import LabelVocabulary, TextClassificationData
from tests.data.in_memory import InMemory

LIMITS = PromptLimits(max_length=32, decode_length=16)
LABELS = ["short", "long"]


def _labelled() -> TextClassificationData:
    rows = ((b"ab", b"short"), (b"a" * 40, b"long"), (b"", b"short"))
    vocabulary = {"inputs": ByteVocabulary(), "targets": LabelVocabulary(LABELS)}
    return TextClassificationData(Task(InMemory(rows, ("inputs", "targets")), vocabulary), 8)


def test_a_label_is_the_target_of_the_first_position() -> None:
    (batch,) = _labelled().evaluation(4, split="validation")
    assert batch["inputs"].tolist() == [
        [100, 101, 1, 0, 0, 0, 0, 0],
        [100] * 7 + [1],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["targets"][:, 0].tolist() == [3, 4, 3, 0] and not batch["targets"][:, 1:].any()


def test_labelled_texts_need_room_for_the_larger_vocabulary() -> None:
    assert _labelled().model_arguments() == {"vocabulary_size": 384}
    assert _labelled().pairs("validation", 1) == [(b"ab", b"short")]


def test_prompts_are_texts_and_outputs_one_id() -> None:
    prompt_format = _labelled().prompt_format(LIMITS)
    row = prompt_format.row(b"abc")
    assert row.ids.tolist() == [100, 101, 102, 1] and row.limit == 1 and row.read == 3
    batch = prompt_format.features([row], 2, prompt_format.lengths(row))
    assert batch["inputs"][1, 0] == 1 and not batch["targets"].any()


def test_a_score_is_that_of_a_label() -> None:
    scored = _labelled().prompt_format(LIMITS).scored_row(b"ab", b"long")
    assert scored.features["targets"].tolist() == [4] and scored.begin == 0
    assert scored.lengths["inputs"] == scored.lengths["targets"] == 8
    with pytest.raises(DataError, match=r"none of LabelVocabulary.*: add it to LABELS"):
        _labelled().prompt_format(LIMITS).scored_row(b"ab", b"medium")


def _own_labels() -> TextClassificationData:
    rows = ((b"5 6", b"short"), (b"0 1 2 3 4 5 6 7 8", b"long"))
    vocabulary = {
        "inputs": IdVocabulary(20, end_id=9, pad_id=-1),
        "targets": LabelVocabulary(LABELS, own_softmax=True),
    }
    return TextClassificationData(Task(InMemory(rows, ("inputs", "targets")), vocabulary), 8)


def test_labels_with_a_softmax_of_their_own_begin_at_0() -> None:
    made = _own_labels()
    assert made.model_arguments() == {"vocabulary_size": 20, "num_labels": 2}
    (batch,) = made.evaluation(3, split="validation")
    assert batch["inputs"].tolist() == [
        [5, 6, 9, -1, -1, -1, -1, -1],
        [0, 1, 2, 3, 4, 5, 6, 9],
        [-1] * 8,
    ]
    assert batch["targets"][:, 0].tolist() == [0, 1, -1] and (batch["targets"][:, 1:] == -1).all()
    prompt_format = made.prompt_format(LIMITS)
    row = prompt_format.row(b"7")
    features = prompt_format.features([row], 2, prompt_format.lengths(row))
    assert features["inputs"].tolist() == [[7, 9] + [-1] * 6, [9] + [-1] * 7]
    assert (features["targets"] == -1).all()
    assert [made.vocabulary.decode([number]) for number in range(3)] == [*LABELS, ""]


TEXT_LABELS = ["noun.animal", "noun.plant", "verb.motion"]


def test_a_label_is_one_id_and_comes_back() -> None:
    vocabulary = LabelVocabulary(TEXT_LABELS)
    for number, label in enumerate(TEXT_LABELS):
        ids = vocabulary.encode(label.encode())
        assert ids.tolist() == [3 + number] and vocabulary.decode([*ids, 1]) == label
    assert vocabulary.size == 6 and len(vocabulary.bytes_per_id) == 6
    assert vocabulary.token_text(4) == TEXT_LABELS[1]


def test_ids_of_no_label_are_empty() -> None:
    vocabulary = LabelVocabulary(TEXT_LABELS)
    assert [vocabulary.decode(ids) for ids in ([], [0], [1], [2], [6], [300])] == [""] * 6


def test_an_unknown_label_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"none of .*, did you mean 'noun\.plant'"):
        LabelVocabulary(TEXT_LABELS).encode("noun.plan")


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_labels_are_some_and_different(labels: list[str]) -> None:
    with pytest.raises(DataError, match="must be distinct, and not empty"):
        LabelVocabulary(labels)


def test_the_fingerprint_changes_with_the_order() -> None:
    first, second = (LabelVocabulary(labels) for labels in (TEXT_LABELS, TEXT_LABELS[::-1]))
    assert first.fingerprint != second.fingerprint and repr(first) != repr(second)
    assert first.fingerprint == LabelVocabulary(tuple(TEXT_LABELS)).fingerprint


def _data(*rows: tuple[bytes, bytes], **settings: Any) -> text_tasks.TextClassificationData:
    vocabulary = {
        "inputs": data.ByteVocabulary(),
        "targets": text_tasks.NumberVocabulary(decimals=1),
    }
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    return text_tasks.TextClassificationData(task, length=8, **settings)


def test_a_number_is_the_target_of_the_first_position() -> None:
    rows = _data((b"ab\tc", b"2.5"), (b"a\tb", b"0"), separators=1)
    (batch,) = rows.evaluation(3)
    assert batch["targets"][:, 0].tolist() == [25, 0, -1] and (batch["targets"][:, 1:] == -1).all()
    assert batch["inputs_types"][0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    arguments = rows.model_arguments()
    assert arguments == {"vocabulary_size": 384, "answers": rows.vocabulary}
    assert np.allclose(text_tasks.NumberVocabulary(decimals=1).numbers, np.arange(51) / 10)


def test_numbers_are_rounded_and_written_with_their_decimals() -> None:
    vocabulary = text_tasks.NumberVocabulary(-2.0, 2.0, 2)
    assert vocabulary.encode("-0.504").tolist() == [150] and vocabulary.decode([150]) == "-0.50"
    assert vocabulary.encode(b"1e0").tolist() == [300]
    assert (
        len(vocabulary.numbers) == 401 and vocabulary.decode([401]) == vocabulary.decode([]) == ""
    )
    fingerprints = {vocabulary.fingerprint, text_tasks.NumberVocabulary(-2.0, 2.0, 1).fingerprint}
    assert len(fingerprints) == 2


@pytest.mark.parametrize("text", ["5.01", "-1", "nan", "inf", "five", ""])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(data.DataError, match=r"is not a number from 0.0 to 5.0"):
        text_tasks.NumberVocabulary().encode(text)


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
        text_tasks.NumberVocabulary(*arguments)


def test_targets_are_answers() -> None:
    task = data.Task(InMemory(((b"ab", b"a"),), ("inputs", "targets")), data.ByteVocabulary())
    with pytest.raises(data.DataError, match="give them a LabelVocabulary"):
        TextClassificationData(task, length=8).model_arguments()


VOCABULARY = data.ByteVocabulary()
END, SPACE = VOCABULARY.end_id, VOCABULARY.encode(" ").tolist()[0]
WORDS_LABELS = text_tasks.LabelVocabulary(["O", "B-PER", "I-PER"], own_softmax=True)
WORDS_LIMITS = data.PromptLimits(max_length=12, decode_length=12)


def _words_data(
    *rows: tuple[bytes, bytes], labels: Any = WORDS_LABELS
) -> text_tasks.TokenClassificationData:
    vocabulary = {"inputs": VOCABULARY, "targets": labels}
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    return text_tasks.TokenClassificationData(task, length=12)


def _ids(text: str) -> list[int]:
    ids: list[int] = VOCABULARY.encode(text).tolist()
    return ids


def test_a_label_is_the_target_of_the_first_id_of_its_word() -> None:
    rows = _words_data((b"Ann  Lee ran", b"B-PER I-PER O"), (b"is", b"O"), (b"", b""))
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
    (batch,) = _words_data((b"a b c d e f g h", b"O O O O O B-PER O O")).evaluation(1)
    assert batch["inputs"][0].tolist() == [*_ids(" a b c d e "), END]
    assert batch["targets"][0].tolist() == [0, -1] * 5 + [1, -1]


def test_outputs_have_a_label_for_every_word_of_a_prompt() -> None:
    prompts = _words_data((b"a", b"O")).prompt_format(WORDS_LIMITS)
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
        {"inputs": _WithoutStars(), "targets": WORDS_LABELS},
    )
    (batch,) = text_tasks.TokenClassificationData(task, length=12).evaluation(1)
    ids = [*_ids(" a"), VOCABULARY.unknown_id, *_ids(" b"), END]
    assert batch["inputs"][0, : len(ids)].tolist() == ids
    assert batch["targets"][0, : len(ids)].tolist() == [0, -1, 1, 0, -1, -1]


def _task(tmp_path: pathlib.Path, row: dict[str, Any]) -> data.Task:
    file = tmp_path / "words.jsonl"
    file.write_text(json.dumps(row) + "\n")
    fields = {"words": "tokens/*", "labels": "ner/*"}
    files = dict.fromkeys(("train", "validation"), str(file))
    source = t5.named_dataset("conll2003", fields, files)
    vocabulary = {"inputs": VOCABULARY, "targets": WORDS_LABELS}
    return data.Task(
        source, vocabulary, [text_tasks.WordLabels(WORDS_LABELS.labels)], cache_dir=str(tmp_path)
    )


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
    rows = text_tasks.TokenClassificationData(_task(tmp_path, row), length=12)
    with pytest.raises(data.DataError, match=message):
        list(rows.evaluation(1))


def test_labels_need_a_softmax_of_their_own() -> None:
    rows = _words_data((b"a", b"O"), labels=text_tasks.LabelVocabulary(["O"]))
    with pytest.raises(data.DataError, match="with own_softmax=True"):
        rows.model_arguments()


def test_a_scored_row_has_the_label_of_every_word_that_fits() -> None:
    prompts = _words_data((b"a", b"O")).prompt_format(WORDS_LIMITS)
    scored = prompts.scored_row(b"Ann  Lee was here", b"B-PER I-PER O O")
    assert scored.features["inputs"].tolist() == [*_ids(" Ann Lee wa"), END]
    assert scored.features["targets"].tolist() == [1, *[-1] * 3, 2, *[-1] * 3, 0, *[-1] * 3]
    assert scored.truncated == len("s here") and set(scored.lengths.values()) == {12}
    with pytest.raises(data.DataError, match="has 2 words and 1 labels"):
        prompts.scored_row(b"Ann ran", b"O")


SETS = ["sport", "money", "art"]


def _sets(*rows: tuple[bytes, bytes], length: int = 8, **settings: Any) -> TextClassificationData:
    vocabulary = {"inputs": data.ByteVocabulary(), "targets": text_tasks.LabelSetVocabulary(SETS)}
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    return TextClassificationData(task, length=length, **settings)


@pytest.mark.parametrize(
    ("settings", "inputs"), [({}, [b"a", b"b", b"c"]), ({"separators": 1}, [b"a\tb"] * 3)]
)
def test_labels_and_their_end_are_the_first_targets(
    settings: dict[str, int], inputs: list[bytes]
) -> None:
    targets = [b"art, sport", b"", b"art,money,sport,art"]
    rows = _sets(*zip(inputs, targets, strict=True), **settings)
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
        _ = _sets((b"a", b"art"), length=3).features
    with pytest.raises(data.DataError, match='"opera" is none of'):
        text_tasks.LabelSetVocabulary(SETS).encode("sport, opera")
