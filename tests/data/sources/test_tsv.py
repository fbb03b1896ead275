"""Tables: tab-separated files, Parquet."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mtfrun.data import DataError, Parquet, Source, Tsv
from mtfrun.errors import install_command


def rows(source: Source, split: str = "train") -> list[tuple[bytes, ...]]:
    return [tuple(example.fields.values()) for example in source.examples(split)]


def written(directory: Path, content: bytes, **options: Any) -> Tsv:
    path = directory / "pairs.tsv"
    path.write_bytes(content)
    return Tsv({"train": str(path)}, **options)


def message(source: Source) -> str:
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
        f"{tabs}; correct or delete it, or leave out bad records with Tsv.skip_bad_records=1 or "
        "more"
    )


def test_columns_have_the_names_of_the_fields_and_header_lines_are_left_out(tmp_path: Path) -> None:
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
    assert line.endswith("leave out bad records with Tsv.skip_bad_records=2 or more")


@pytest.mark.parametrize(("suffix", "separator"), [("tsv", "\t"), ("csv", ",")])
def test_equal_lines_are_in_one_split_and_every_line_in_one(
    tmp_path: Path, suffix: str, separator: str
) -> None:
    path = tmp_path / f"pairs.{suffix}"
    lines = "".join(f"{i % 400}{separator}{i % 400 + 1}\n" for i in range(800))
    path.write_text(("inputs,targets\n" if suffix == "csv" else "") + lines)
    splits = [rows(Tsv(str(path)), split) for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 800 and all(splits)
    assert sum(len(set(split)) for split in splits) == 400


def test_blank_lines_at_the_end_are_left_out(tmp_path: Path) -> None:
    assert rows(written(tmp_path, b"a\tb\n\n\n")) == [(b"a", b"b")]
    assert rows(written(tmp_path, b"a\tb\r\n\r\n")) == [(b"a", b"b")]
    assert "pairs.tsv:2: a line needs one tab" in message(written(tmp_path, b"a\tb\n\nc\td\n"))


def test_csv_has_a_header_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(b'\xef\xbb\xbftargets,id,inputs\r\nb,1,"a, ""x""\nmore"\r\nd,2,"c"\r\n\r\n')
    assert rows(Tsv({"train": str(path)})) == [(b'a, "x"\nmore', b"b"), (b"c", b"d")]
    named = Tsv({"train": str(path)}, fields={"inputs": "id", "targets": "targets"})
    assert rows(named) == [(b"1", b"b"), (b"2", b"d")]
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert rows(Tsv({"train": f"{path}.gz"})) == rows(Tsv({"train": str(path)}))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("question,targets\n1,2\n", 'has no column "inputs"; it has question, targets'),
        ("", 'has no column "inputs"; it has none'),
        ("inputs,targets,inputs\n1,2,3\n", 'its first line names the column "inputs" twice'),
        ('inputs,targets\n"1\n2",3\n4\n', "pairs.csv:4: a line needs one comma, between inputs, t"),
        ("inputs;targets\n1;2\n", "has semicolons between its values: .csv needs commas"),
        ('inputs,targets\n1,"2\n', "pairs.csv:2: unexpected end of data: in CSV"),
    ],
)
def test_broken_csv_is_an_error_with_file_and_line(
    content: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    assert complaint in message(Tsv({"train": str(path)}))


def write(path: Path, **columns: list[Any]) -> Parquet:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
    return Parquet({"train": str(path)})


def examples(source: Source, split: str = "train") -> list[dict[str, bytes]]:
    return [dict(example.fields) for example in source.examples(split)]


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
