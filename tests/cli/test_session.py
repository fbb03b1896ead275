"""Sessions on the terminal: conversations, changes of settings, and lines that are refused."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pytest

from mtfrun.cli.session import Session
from mtfrun.errors import InputError
from mtfrun.experiment import Inference, Record
from mtfrun.experiment.records import Source


class Echo(Inference):
    """Answers with the prompt and the settings."""

    settings: ClassVar[Sequence[str]] = ("temperature", "top_k", "decode_length", "chat", "draft")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def read(self, source: Source) -> Sequence[bytes]:
        return source.texts()

    def records(self, inputs: Any, progress: Any = None) -> Sequence[Record]:
        (text,) = inputs
        if b"refused" in text:
            raise InputError("no such word")
        fields: dict[str, object] = {"outputs": [{"tokens": 3, "finished": False}]}
        return [Record(fields, [f"{text.decode()} {dict(self.values)}"])]

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        if settings.get("temperature", 0) < 0:
            raise InputError("temperature is -1")
        return type(self)({**self.values, **settings})


def _session(
    text: str, monkeypatch: pytest.MonkeyPatch, *, chat: bool = False
) -> tuple[Session, list[str], str]:
    """Returns a session after lines of input, and what it printed on the two streams."""
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    output, errors = io.StringIO(), io.StringIO()
    for name, stream in {"stdin": stdin, "stdout": output, "stderr": errors}.items():
        monkeypatch.setattr(sys, name, stream)
    session = Session(Echo({}), chat, lambda _: None)
    session.run()
    return session, output.getvalue().splitlines(), errors.getvalue()


def test_lines_are_prompts_and_commands_change_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\n/temperature 0.8\n/top_k 5\nb\n//c\n/settings\n/quit\nd\n"
    _, lines, errors = _session(text, monkeypatch)
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
    _, lines, errors = _session(f"{line}\na\n", monkeypatch)
    assert lines == ["a {}"] and f"warning: {reason}" in errors


def test_an_output_that_ends_before_its_length_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, errors = _session("/decode_length 8\na\n", monkeypatch)
    assert "note: outputs were cut off after 3 tokens, before decode_length=8: Decoding." in errors
    for text in ("/decode_length 3\na\n", "a\n"):
        assert "cut off" not in _session(text, monkeypatch)[2]


def test_a_chat_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    session, lines, _ = _session("a\nrefused\nb\n", monkeypatch, chat=True)
    first = {"messages": [{"role": "user", "content": "a"}]}
    assert lines[0] == f"{json.dumps(first)} {{}}"
    contents = [message["content"] for message in session.messages]
    assert contents == ["a", lines[0], "b", lines[1]]
    roles = [message["role"] for message in session.messages]
    assert roles == ["user", "assistant"] * 2
    session, *_ = _session("a\nb\n/undo\n", monkeypatch, chat=True)
    assert len(session.messages) == 2
    session, *_ = _session("a\n/system Be brief.\n/undo\n", monkeypatch, chat=True)
    assert session.messages == [{"role": "system", "content": "Be brief."}]
    session, *_ = _session("a\n/clear\n", monkeypatch, chat=True)
    assert not session.messages
