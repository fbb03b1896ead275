"""Prompt files hold anything; every line is one prompt."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.cli.prompts import prompt_bytes, read_prompts


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


def test_an_argument_that_is_no_utf8_keeps_its_bytes() -> None:
    assert prompt_bytes("caf\udce9 é") == b"caf\xe9 \xc3\xa9"
