"""Inputs: files of prompts and pairs, of any bytes, and the image files of an --input."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pathlib
import re
from collections.abc import Callable

import pytest

from mtfrun.cli.inputs_and_outputs import image_paths, read_pairs, read_prompts
from mtfrun.errors import InputError
from tests.cli.command import error_line, mtfrun_here, succeeded

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\n\r\nb\r\n", [b"a", b"", b"b"]),
        (b"a\x00b\n\xff\xfe\n", [b"a\x00b", b"\xff\xfe"]),
        ("a\u2028b\x0cc\n".encode(), ["a\u2028b\x0cc".encode()]),
        (b"a\rb\n", [b"a\rb"]),
    ],
)
def test_lines_end_with_lf_or_crlf_only(
    content: bytes, prompts: list[bytes], tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "prompts"
    file.write_bytes(content)
    assert read_prompts(str(file)) == prompts


@pytest.mark.parametrize("read", [read_prompts, read_pairs])
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "no JSON"),
        (b'{"input": "a", "target": "b"', "no JSON"),
        (b'{"input": "\xff", "target": "b"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"input": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[]", "no text|expected"),
        (b"null", "no text|expected"),
        (b'{"input": 3, "target": "b"}', "no text"),
    ],
)
def test_a_broken_line_of_json_is_named(
    read: Callable[[str], object], line: bytes, complaint: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b'{"input": "a", "target": "b"}\n' + line + b"\n")
    with pytest.raises(InputError, match=rf"prompts\.jsonl:2: ({complaint})"):
        read(str(file))


def test_a_pair_with_a_second_tab_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(b"a\tb\na\tb\tc\n")
    with pytest.raises(InputError, match=r"pairs\.tsv:2: 3 columns"):
        read_pairs(str(file))


def test_closed_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        read_prompts("-")


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_csv_has_a_header_and_quotes(tmp_path: pathlib.Path, suffix: str) -> None:
    content = b'\xef\xbb\xbfid,target,input\r\n1,b,"a, ""x""\nmore"\r\n2,d,c\r\n\r\n'
    file = tmp_path / f"pairs.csv{suffix}"
    file.write_bytes(COMPRESS[suffix](content))
    assert read_pairs(str(file)) == [(b'a, "x"\nmore', b"b"), (b"c", b"d")]
    assert read_prompts(str(file)) == [b'a, "x"\nmore', b"c"]


def test_csv_may_have_one_column(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_bytes(b"prompt\nwhy\nwho\n")
    assert read_prompts(str(file)) == [b"why", b"who"]
    file.write_bytes(b"target\nbecause\n")
    assert read_pairs(str(file)) == [(b"", b"because")]
    file.write_bytes(b"Why is the sky blue?\nwho\n")  # without a header a prompt would be lost
    with pytest.raises(InputError, match=r':1: no column is called "input": .* Why is the sky'):
        read_prompts(str(file))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a,b\n1,2\n", r':1: no column is called "\w+": .* names a, b'),
        (b"", r':1: no column is called "target": .* names nothing'),
        (b"input,target\n1\n", ":2: 1 values where the first line names 2"),
        (b'input,target\n1,"2\n', ":2: unexpected end of data: in CSV"),
        (b'input,target\n1,"2"3\n', ":2: .* in CSV"),
    ],
)
def test_broken_csv_is_named(content: bytes, complaint: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as raised:
        read_pairs(str(file))
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_byte_order_marks_and_line_ends_are_not_part_of_texts(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(b"\xef\xbb\xbfa\tb\n\nc\td\n\n\n")
    assert read_pairs(str(file)) == [(b"a", b"b"), (b"", b""), (b"c", b"d")]
    file.write_bytes(b"a\tb\rc\td\r")
    assert read_prompts(str(file)) == [b"a", b"c"]
    file = tmp_path / "prompts.txt"
    file.write_bytes(gzip.compress(b"a"))
    with pytest.raises(InputError, match="compressed by gzip"):
        read_prompts(str(file))


def test_a_field_that_an_object_has_twice_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b'{"input": "a", "input": "b", "target": "c"}\n')
    with pytest.raises(InputError, match=r':1: .* the field "input" twice'):
        read_pairs(str(file))


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The working directory: some files, which are empty."""
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "c,d.jpeg", "notes.md", "sub/e.png", "x[1].png"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_bytes(b"sub/e.png\r\n\nc,d.jpeg\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("b.png", ["b.png"]),
        ("notes.md", ["notes.md"]),  # that it is no image is an error when it is read
        ("sub", ["sub/e.png"]),
        (".", ["./a.JPG", "./b.png", "./c,d.jpeg", "./x[1].png"]),
        ("**/*.png", ["b.png", "sub/e.png", "x[1].png"]),
        ("x[1].png", ["x[1].png"]),
        ("c,d.jpeg", ["c,d.jpeg"]),
        ("b.png,sub,a.JPG", ["b.png", "sub/e.png", "a.JPG"]),
        ("list.txt", ["sub/e.png", "c,d.jpeg"]),
        ("list.txt,b.png", ["sub/e.png", "c,d.jpeg", "b.png"]),
    ],
)
def test_files_folders_patterns_and_lists(
    folder: pathlib.Path, argument: str, expected: list[str]
) -> None:
    assert image_paths(argument) == expected


def test_names_may_have_any_bytes(folder: pathlib.Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).touch()
    (folder / "more.txt").write_bytes(b"caf\xe9.png\n")
    assert image_paths("more.txt") == [name]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.png", "no image none.png"),
        ("b.png,none.png", "no image none.png"),
        ("none.txt", "no image none.txt"),
        (",".join(["a.JPG"] * 2000 + ["none.png"]), "no image none.png"),
        ("*.gif", "no file matches *.gif"),
        ("empty", "the folder empty holds no .png, .jpg, .jpeg file"),
        ("empty.txt", "--input=empty.txt names no image"),
        ("", "no image "),
    ],
)
def test_a_missing_file_is_an_error(folder: pathlib.Path, argument: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    with pytest.raises(InputError, match=re.escape(message)):
        image_paths(argument)


@pytest.mark.parametrize("command", [pytest.param("decode", marks=pytest.mark.slow), "score"])
def test_a_split_of_the_data_is_an_input(
    command: str, quick_run: pathlib.Path, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "lines.jsonl"
    flags = [f"--model_dir={quick_run}", f"--output={output}", "--input=split:validation"]
    assert succeeded(mtfrun_here(command, *flags)) == []
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    has_pairs = request.node.callspec.params["quick_run"] == "encoder-decoder"
    assert len(lines) == (300 if has_pairs else 1)
    if command == "score":
        assert lines[0]["log_likelihood"] < 0
        assert bool(lines[0]["input"]) == has_pairs and lines[0]["target"]
    else:
        assert [line["index"] for line in lines] == list(range(len(lines)))
        assert {line["split"] for line in lines} == {"validation"}
        assert all(line["prompt"] for line in lines)
        assert all(bool(line.get("target")) == has_pairs for line in lines)


def test_a_split_that_does_not_exist_is_one_line(language_model_run: pathlib.Path) -> None:
    flags = [f"--model_dir={language_model_run}", "--input=split:tset"]
    assert 'no split "tset"' in error_line(mtfrun_here("score", *flags))
