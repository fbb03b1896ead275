"""Datasets by name: TFDS, or files of a kind that their suffix says."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun import data
from mtfrun.extras import t5


def test_without_files_it_is_a_dataset_of_tfds() -> None:
    source = t5.named_dataset("glue/cola", ["sentence"], slices={"train": "train[:9]"})
    assert source == data.Tfds("glue/cola", ["sentence"], {"train": "train[:9]"})


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".tsv", "Ann sang.\t1\n"),
        (".tsv", "label\tindex\tsentence\n1\t7\tAnn sang.\n"),
        (".csv", "label,sentence\n1,Ann sang.\n"),
        (".jsonl", '{"label": 1, "other": [], "sentence": "Ann sang."}\n'),
    ],
)
def test_files_have_the_fields_of_the_dataset(
    suffix: str, text: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / f"cola{suffix}").write_text(text, encoding="utf-8")
    files = {"train": f"{tmp_path}/{{name}}{suffix}"}
    source = t5.named_dataset("glue/cola", ["sentence", "label"], files)
    (example,) = source.examples("train")
    assert example.fields == {"sentence": b"Ann sang.", "label": b"1"}


@pytest.mark.parametrize("files", ["a.txt", ["a.csv", "a.jsonl"], []])
def test_files_are_of_one_kind_that_is_known(files: str | list[str]) -> None:
    with pytest.raises(data.DataError, match=r"glue/cola end in .*: give files of one"):
        t5.named_dataset("glue/cola", ["sentence"], files)
