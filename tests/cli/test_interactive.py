"""Sessions on the terminal: prompts, changes of settings, and lines that are refused."""

from __future__ import annotations

import pytest

from mtfrun.cli.interactive import Session
from tests.cli.echo import Echo, run_session


def _lines(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    return run_session(Session(Echo(), {}), text, monkeypatch)


def test_lines_are_prompts_and_commands_change_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\n/temperature 0.8\n/top_k 5\nb\n//c\n/settings\n/quit\nd\n"
    lines, errors = _lines(text, monkeypatch)
    settings = "{'temperature': 0.8, 'top_k': 5}"
    assert lines == ["a {}", f"b {settings}", f"/c {settings}"]
    assert "temperature 0.8\ntop_k 5\n" in errors and errors.count("> ") == 7


@pytest.mark.parametrize(
    "line, reason",
    [
        ("/temprature 1", "there is no /temprature, did you mean 'temperature'?"),
        ("/temperature warm", "/temperature needs a number"),
        ("/temperature -1", "temperature is -1"),
        ("/chat 1", "there is no /chat"),
        ("/clear", "there is no /clear"),
        ("refused", "no such word"),
    ],
)
def test_a_line_that_is_refused_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, line: str, reason: str
) -> None:
    lines, errors = _lines(f"{line}\na\n", monkeypatch)
    assert lines == ["a {}"] and f"warning: {reason}" in errors


def test_an_output_that_ends_before_its_length_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    _, errors = _lines("/decode_length 8\na\n", monkeypatch)
    assert "note: outputs were cut off after 3 tokens, before decode_length=8: Decoding." in errors
    for text in ("/decode_length 3\na\n", "a\n"):
        assert "cut off" not in _lines(text, monkeypatch)[1]
