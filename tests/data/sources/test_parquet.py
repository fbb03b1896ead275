"""Parquet files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mtfrun.data import DataError, Parquet
from mtfrun.errors import install_command


def write(path: Path, **columns: list[Any]) -> Parquet:
    """Returns the source of a file, all for training."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
    return Parquet({"train": str(path)})


def examples(source: Parquet, split: str = "train") -> list[dict[str, bytes]]:
    """Returns the fields of all examples."""
    return [dict(example.fields) for example in source.examples(split)]


def message(source: Parquet) -> str:
    """Returns the one-line error of the source."""
    with pytest.raises(DataError) as error:
        examples(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_texts_and_numbers_become_text_in_order(tmp_path: Path) -> None:
    count = 700
    source = write(
        tmp_path / "a.parquet",
        text=[f"é{i}" for i in range(count)],
        label=list(range(count)),
        score=[0.5] * count,
        raw=[b"\xff"] * count,
        words=[["a"]] * count,
    )
    assert examples(source) == [
        {"text": f"é{i}".encode(), "label": str(i).encode(), "score": b"0.5", "raw": b"\xff"}
        for i in range(count)
    ]


def test_columns_are_chosen_renamed_and_nested(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, q=["why"], answers=[{"text": ["so", "thus"]}])
    columns = {"inputs": "q", "targets": "answers/text/1"}
    assert examples(Parquet({"train": str(path)}, columns)) == [
        {"inputs": b"why", "targets": b"thus"}
    ]
    assert message(Parquet({"train": str(path)}, ["qq"])) == (
        f"{path} has no column \"qq\"; it has q, answers, did you mean 'q'?"
    )


def test_a_missing_value_is_a_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, text=["a", None, "c"])
    line = message(Parquet({"train": str(path)}, ["text"]))
    assert line.startswith(f'{path}, record 2: field "text" is missing (null), not text; ')
    source = Parquet({"train": str(path)}, ["text"], skip_bad_records=1)
    assert examples(source) == [{"text": b"a"}, {"text": b"c"}]


def test_a_text_that_is_not_utf8_is_a_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, text=["a", "xy", *map(str, range(600))])
    path.write_bytes(path.read_bytes().replace(b"xy", b"x\xff"))
    line = message(Parquet({"train": str(path)}))
    assert line.startswith(f"{path}, record 2: 'utf-8' codec can't decode byte 0xff")
    source = Parquet({"train": str(path)}, ["text"], skip_bad_records=1)
    assert [row["text"] for row in examples(source)] == [b"a", *(b"%d" % n for n in range(600))]


def test_rows_are_split_by_the_columns_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, text=[str(i % 300) for i in range(600)], number=list(range(600)))
    splits = [examples(Parquet(str(path), ["text"]), s) for s in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 600 and all(splits)
    assert sum(len({row["text"] for row in split}) for split in splits) == 300


def test_damaged_files_and_a_missing_package_are_errors_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write(path, text=[str(i) for i in range(5000)])
    whole = path.read_bytes()
    for damaged in (b"", b"no parquet", whole[:-50], whole[:4] + b"\xff" * 500 + whole[504:]):
        path.write_bytes(damaged)
        assert message(Parquet({"train": str(path)})).startswith(f"{path} cannot be read: ")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert message(Parquet({"train": str(path)})) == (
        f"{path} needs the package pyarrow: {install_command('pyarrow')}"
    )
