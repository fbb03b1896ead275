"""A conversation on the terminal."""

from __future__ import annotations

import json

import pytest

from mtfrun.extras.chat.session import Chat
from tests.cli.echo import Echo, run_session


def test_a_chat_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(Echo(), {})
    lines, _ = run_session(chat, "a\nrefused\nb\n", monkeypatch)
    first = {"messages": [{"role": "user", "content": "a"}]}
    assert lines[0] == f"{json.dumps(first)} {{}}"
    contents = [message["content"] for message in chat.messages]
    assert contents == ["a", lines[0], "b", lines[1]]
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    run_session(chat, "/undo\n", monkeypatch)
    assert len(chat.messages) == 2
    run_session(chat, "/system Be brief.\n/undo\n", monkeypatch)
    assert chat.messages == [{"role": "system", "content": "Be brief."}]
    _, errors = run_session(chat, "/clear\n/help\n", monkeypatch)
    assert not chat.messages
    assert "sets temperature, top_k, decode_length\n" in errors and "\n/undo " in errors
