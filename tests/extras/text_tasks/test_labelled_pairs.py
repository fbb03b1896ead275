"""Labelled pairs of texts: rows and prompts have the same ids, and long pairs fit."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import tokenizers

from mtfrun import data
from mtfrun.extras import huggingface, t5, text_tasks
from tests.data.in_memory import InMemory

VOCABULARY = data.ByteVocabulary()
END = VOCABULARY.end_id
LABELS = ["same", "other"]
LIMITS = data.PromptLimits(max_length=16, decode_length=1)


def _data(
    *pairs: tuple[bytes, bytes], vocabulary: data.Vocabulary = VOCABULARY, **settings: Any
) -> text_tasks.TextClassificationData:
    vocabularies = {"inputs": vocabulary, "targets": text_tasks.LabelVocabulary(LABELS)}
    task = data.Task(InMemory(pairs, ("inputs", "targets")), vocabularies)
    return text_tasks.TextClassificationData(task, **{"length": 16, "separators": 1, **settings})


def _only_row(rows: text_tasks.TextClassificationData) -> Mapping[str, list[int]]:
    (batch,) = rows.evaluation(1)
    return {name: values[0].tolist() for name, values in batch.items()}


def _ids(text: str) -> list[int]:
    ids: list[int] = VOCABULARY.encode(text).tolist()
    return ids


@pytest.mark.parametrize("separators", [1, 2])
def test_a_row_is_both_texts_and_their_ends(separators: int) -> None:
    row = _only_row(_data((b"abc\tde", b"other"), separators=separators))
    ids = [*_ids("abc"), *[END] * separators, *_ids("de"), END]
    assert row["inputs"] == ids + [0] * (16 - len(ids))
    types = [0] * (3 + separators) + [1] * 3
    # RoBERTa's rows have none.
    expected = types + [0] * (16 - len(types)) if separators == 1 else None
    assert row.get("inputs_types") == expected
    assert row["targets"] == [4] + [0] * 15


@pytest.mark.parametrize("pair", ["a [SEP] b\ta", "a\tb [SEP] [PAD] a", "[SEP]\t[SEP]"])
def test_types_are_those_of_tokenizers_where_a_text_has_special_tokens(
    tmp_path: pathlib.Path, pair: str
) -> None:
    vocabulary, tokenizer = _word_pieces(tmp_path)
    rows = _data((pair.encode(), b"same"), vocabulary=vocabulary)
    first, second = pair.split("\t")
    expected = tokenizer.encode(first, second)
    row, prompts = _only_row(rows), rows.prompt_format(LIMITS)
    padding = [0] * (16 - len(expected.ids))
    assert row["inputs"] == expected.ids + padding
    assert row["inputs_types"] == expected.type_ids + padding
    features = prompts.features([prompts.row(pair.encode())], 1, {"inputs": 16, "targets": 1})
    assert features["inputs_types"].tolist() == [expected.type_ids + padding]
    scored = prompts.scored_row(pair.encode(), b"same")
    assert scored.features["inputs_types"].tolist() == expected.type_ids


def _word_pieces(
    folder: pathlib.Path,
) -> tuple[huggingface.HuggingFaceVocabulary, tokenizers.Tokenizer]:
    """Returns BERT's tokenizer of two letters, and the library's."""
    ids = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    file = str(folder / "tokenizer.json")
    made.save(file)
    return huggingface.HuggingFaceVocabulary(file, begin_token="[CLS]"), made


@pytest.mark.parametrize(
    ("first", "second", "sizes"),
    [
        # 14 ids have room. An odd one is the longer text's.
        ("a" * 9, "b" * 5, (9, 5)),
        ("a" * 20, "b" * 5, (9, 5)),
        ("a" * 5, "b" * 20, (5, 9)),
        ("a" * 20, "b" * 30, (7, 7)),
        ("a" * 20, "", (14, 0)),
    ],
)
def test_the_longer_text_loses_its_end(first: str, second: str, sizes: tuple[int, int]) -> None:
    pair = f"{first}\t{second}".encode()
    row = _only_row(_data((pair, b"same")))
    expected = [*_ids("a" * sizes[0]), END, *_ids("b" * sizes[1]), END]
    assert row["inputs"] == expected + [0] * (16 - len(expected))
    prompt = _data((pair, b"same")).prompt_format(LIMITS).row(pair)
    assert prompt.ids.tolist() == expected
    assert prompt.truncated == len(first) + len(second) - sum(sizes)


def test_a_score_is_that_of_a_label_of_both_texts() -> None:
    rows = _data((b"abc\tde", b"other"))
    assert rows.pairs("validation", None) == [(b"abc\tde", b"other")]
    scored = rows.prompt_format(LIMITS).scored_row(b"abc\tde", b"other")
    assert scored.features["inputs_types"].tolist() == [0] * 4 + [1] * 3
    assert scored.features["targets"].tolist() == [4]
    assert set(scored.lengths.values()) == {16}


@pytest.mark.parametrize("text", [b"abc", b""])
def test_a_missing_second_text_is_refused(text: bytes) -> None:
    rows = _data((text, b"same"))
    with pytest.raises(data.DataError, match="an example is two texts with a tab between them"):
        list(rows.evaluation(1))
    with pytest.raises(data.DataError, match="a prompt is two texts with a tab between them"):
        rows.prompt_format(LIMITS).row(text)


def test_a_vocabulary_without_an_end_cannot_divide_a_row() -> None:
    vocabulary = {
        "inputs": data.IdVocabulary(20, end_id=None),
        "targets": text_tasks.LabelVocabulary(LABELS),
    }
    task = data.Task(InMemory(((b"5\t6", b"same"),), ("inputs", "targets")), vocabulary)
    with pytest.raises(data.DataError, match="has no end to divide a row"):
        list(text_tasks.TextClassificationData(task, 16, separators=1).evaluation(1))


ROWS: list[dict[str, Any]] = [
    {"sentence1": "a\tb", "sentence2": "c", "label": 1},
    {"sentence1": "d", "sentence2": "e", "label": "same"},
]


def _written(tmp_path: pathlib.Path, kind: str) -> pathlib.Path:
    file = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "csv":
        lines = [",".join(map(str, row.values())) for row in ROWS]
        file.write_text("\n".join([",".join(ROWS[0]), *lines]) + "\n")
    else:
        file.write_text("a b\tc\t1\nd\te\tsame\n")
    return file


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_files_of_every_kind_have_two_texts_and_a_label(tmp_path: pathlib.Path, kind: str) -> None:
    fields = {"first": "sentence1", "second": "sentence2", "label": "label"}
    source = t5.named_dataset("glue/mrpc", fields, {"train": str(_written(tmp_path, kind))})
    task = data.Task(source, VOCABULARY, [text_tasks.TextPairs(LABELS)])
    texts = list(task.texts("train", ["inputs", "targets"]))
    assert texts == [(b"a b\tc", b"other"), (b"d\te", b"same")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence1": "a", "label": 1}', r'pairs.jsonl:1: .*"sentence2"'),
        ('{"sentence1": "a", "sentence2": "b", "label": 2}', 'label "2" is neither a name nor'),
    ],
)
def test_bad_rows_of_files_are_refused(tmp_path: pathlib.Path, line: str, message: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{line}\n")
    fields = {"first": "sentence1", "second": "sentence2", "label": "label"}
    source = t5.named_dataset("glue/mrpc", fields, {"train": str(file)})
    task = data.Task(source, VOCABULARY, [text_tasks.TextPairs(LABELS)])
    with pytest.raises(data.DataError, match=message):
        list(task.texts("train", ["inputs"]))
