"""Datasets that Hugging Face's package `datasets` reads, from local files."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtfrun.data import ByteVocabulary, DataError, JsonLines, LanguageModelData, Task
from mtfrun.extras.huggingface import HuggingFaceDataset

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the extra interoperability"
)


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def _write(path: Path, count: int = 10) -> str:
    lines = [
        {"text": f"é{i}", "label": i % 2, "score": 0.5, "words": [f"a{i}", "b"], "no": None}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def _examples(source: HuggingFaceDataset, split: str = "train") -> list[dict[str, bytes]]:
    return [dict(example.fields) for example in source.examples(split)]


def _message(source: HuggingFaceDataset, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        _examples(source, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def _texts(indices: range) -> list[bytes]:
    return [f"é{i}".encode() for i in indices]


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_a_format_are_read_in_order(tmp_path: Path, streaming: bool) -> None:
    files = {"train": _write(tmp_path / "a.jsonl"), "test": _write(tmp_path / "b.jsonl", 3)}
    source = HuggingFaceDataset("json", data_files=files, streaming=streaming)
    assert source.splits == ("train", "test")
    assert _examples(source)[1] == {"text": "é1".encode(), "label": b"1", "score": b"0.5"}
    assert [x["text"] for x in _examples(source)] == _texts(range(10))
    chosen = HuggingFaceDataset(
        "json", data_files=files, streaming=streaming, fields={"inputs": "words/0"}, max_examples=2
    )
    assert _examples(chosen) == [{"inputs": b"a0"}, {"inputs": b"a1"}]


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_slices_divide_a_split(tmp_path: Path, streaming: bool) -> None:
    slices = {"train": "train[:7]", "validation": "train[7:9]+train[9:]"}
    files = _write(tmp_path / "a.jsonl")
    source = HuggingFaceDataset("json", data_files=files, slices=slices, streaming=streaming)
    assert [x["text"] for x in _examples(source)] == _texts(range(7))
    assert [x["text"] for x in _examples(source, "validation")] == _texts(range(7, 10))
    percent = HuggingFaceDataset(
        "json", data_files=files, slices={"train": "train[:50%]"}, streaming=streaming
    )
    if streaming:
        assert "streams do not support" in _message(percent)
    else:
        assert [x["text"] for x in _examples(percent)] == _texts(range(5))


@needs_package
@pytest.mark.slow
def test_saved_datasets_have_names_of_classes(tmp_path: Path) -> None:
    import datasets  # noqa: PLC0415 - an extra

    rows: dict[str, Any] = {"text": ["a", "b", "c"], "label": [0, 1, -1]}
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "two")
    expected = [
        {"text": text, "label": label}
        for text, label in ((b"a", b"no"), (b"b", b"yes"), (b"c", b"-1"))
    ]
    one, two = HuggingFaceDataset(str(tmp_path / "one")), HuggingFaceDataset(str(tmp_path / "two"))
    assert one.splits == ("train",) and _examples(one) == expected
    assert two.splits == ("train", "test") and _examples(two, "test") == expected
    assert 'has no split "dev"; it has train, test' in _message(two, "dev")


@needs_package
@pytest.mark.slow
def test_batches_are_those_of_the_same_files_read_as_json_lines(tmp_path: Path) -> None:
    files = {"train": _write(tmp_path / "a.jsonl", 40)}
    sources = [
        JsonLines(files, fields=["text"]),
        HuggingFaceDataset("json", data_files=files, fields=["text"]),
        HuggingFaceDataset("json", data_files=files, fields=["text"], streaming=True),
    ]
    expected, *others = (
        itertools.islice(
            LanguageModelData(Task(source, ByteVocabulary()), length=16).train(4, seed=7), 30
        )
        for source in sources
    )
    for batches in zip(expected, *others, strict=True):  # more than an epoch
        for batch in batches[1:]:
            assert batch.keys() == batches[0].keys()
            assert all(np.array_equal(batch[name], batches[0][name]) for name in batch)


@needs_package
@pytest.mark.slow
def test_what_cannot_be_read_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = _write(tmp_path / "a.jsonl")
    wrong = HuggingFaceDataset("json", data_files=files, fields=["txt"])
    assert 'has no column "txt"; it has text, label' in _message(wrong)
    empty = HuggingFaceDataset("json", data_files=files, fields=["no"])
    assert 'train[0]: field "no" is missing (null), not text' in _message(empty)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{no\n')
    bad = HuggingFaceDataset("json", data_files=str(tmp_path / "bad.jsonl"))
    assert "cannot be read: ArrowInvalid: JSON parse error" in _message(bad)
    assert capfd.readouterr().err == ""


def test_a_dataset_of_the_hub_is_not_downloaded_unless_asked() -> None:
    message = _message(HuggingFaceDataset("glue", "mrpc"))
    assert "for a dataset of the Hugging Face Hub set" in message
    assert "did you mean 'json'?" in _message(HuggingFaceDataset("jsonl"))
    assert "needs data_files, such as" in _message(HuggingFaceDataset("json"))


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    source = HuggingFaceDataset("json", data_files={"train": _write(path)})
    before = source.fingerprint("train")
    assert before == source.fingerprint("train")
    assert source.paths("train") == [str(path)]
    os.utime(path, ns=(0, 0))
    assert source.fingerprint("train") != before
    limited = HuggingFaceDataset("json", data_files={"train": str(path)}, max_examples=3)
    assert limited.fingerprint("train") != source.fingerprint("train")


def test_the_package_is_asked_for_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = HuggingFaceDataset("json", data_files=_write(tmp_path / "a.jsonl"))
    assert "needs the package datasets: " in _message(source)
