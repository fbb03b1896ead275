"""Prompt files of any bytes; every line is one prompt."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from mtfrun.cli.errors import UsageError
from mtfrun.cli.inputs.prompts import prompt_bytes, read_pairs, read_prompts


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


def test_an_argument_may_have_any_bytes() -> None:
    assert prompt_bytes("caf\udce9 é") == b"caf\xe9 \xc3\xa9"


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
    with pytest.raises(UsageError, match=rf"prompts\.jsonl:2: ({complaint})"):
        read(str(file))


def test_a_pair_with_a_second_tab_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(b"a\tb\na\tb\tc\n")
    with pytest.raises(UsageError, match=r"pairs\.tsv:2: 3 columns"):
        read_pairs(str(file))


def test_closed_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        read_prompts("-")
