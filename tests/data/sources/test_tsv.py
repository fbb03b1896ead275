"""Files of tab-separated values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtfrun.data import DataError, Tsv


def rows(source: Tsv, split: str = "train") -> list[tuple[bytes, ...]]:
    """Returns the values of all examples."""
    return [tuple(example.fields.values()) for example in source.examples(split)]


def written(directory: Path, content: bytes, **options: Any) -> Tsv:
    """Returns the source of a file, pairs.tsv, all of which is for training."""
    path = directory / "pairs.tsv"
    path.write_bytes(content)
    return Tsv({"train": str(path)}, **options)


def message(source: Tsv) -> str:
    """Returns the one-line error of the source."""
    with pytest.raises(DataError) as error:
        rows(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_line_has_an_input_and_a_target(tmp_path: Path) -> None:
    source = written(tmp_path, "one\t1\r\ntwo\t\nzwölf\t12".encode())
    assert source.splits == ("train",)
    assert rows(source) == [(b"one", b"1"), (b"two", b""), ("zwölf".encode(), b"12")]
    assert [list(example.fields) for example in source.examples("train")] == [
        ["inputs", "targets"]
    ] * 3


@pytest.mark.parametrize("line, tabs", [("no tab", 0), ("", 0), ("a\tb\tc", 2)])
def test_another_number_of_tabs_is_an_error_with_file_and_line(
    line: str, tabs: int, tmp_path: Path
) -> None:
    source = written(tmp_path, f"a\tb\n{line}\nc\td\n".encode())
    assert message(source) == (
        f"{tmp_path}/pairs.tsv:2: a line needs one tab, between inputs, targets; this one has "
        f"{tabs}; correct it, or leave out up to N such records with Tsv.skip_bad_records=N"
    )


def test_columns_have_the_names_of_the_fields_and_header_lines_are_left_out(
    tmp_path: Path,
) -> None:
    content = b"id\tquestion\tanswer\n1\twhy\tbecause\n2\twho\n"
    source = written(tmp_path, content, fields=["id", "question", "answer"], header_lines=1)
    example = next(source.examples("train"))
    assert example.fields == {"id": b"1", "question": b"why", "answer": b"because"}
    assert message(source).startswith(f"{tmp_path}/pairs.tsv:3: a line needs 2 tabs")


def test_bad_lines_are_left_out_up_to_a_number(tmp_path: Path, caplog: Any) -> None:
    content = b"a\tb\nbad\nc\td\nworse\n"
    assert rows(written(tmp_path, content, skip_bad_records=2)) == [(b"a", b"b"), (b"c", b"d")]
    (record,) = caplog.records
    assert 'left out 2 bad record(s) of split "train"; the first: ' in record.getMessage()
    assert f"{tmp_path}/pairs.tsv:2: a line needs" in record.getMessage()
    line = message(written(tmp_path, content, skip_bad_records=1))
    assert line.startswith(f"{tmp_path}/pairs.tsv:4: ")
    assert line.endswith("; it is one more than skip_bad_records=1 allows")


def test_equal_lines_are_in_one_split_and_every_line_in_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{i % 400}\t{i % 400 + 1}\n" for i in range(800)))
    splits = [rows(Tsv(str(path)), split) for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 800 and all(splits)
    assert sum(len(set(split)) for split in splits) == 400
