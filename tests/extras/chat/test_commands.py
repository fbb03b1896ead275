"""The commands about conversations: data, training, chats."""

from __future__ import annotations

import json
import pathlib

import pytest

import mtfrun
from mtfrun.extras.chat.session import Chat
from tests.cli.command import TINY, TWO_STEPS, error_line, mtfrun_here, succeeded
from tests.cli.echo import Echo, run_session

CHAT = {"messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "fox"}]}


def test_a_chat_answers_messages_and_conversations(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = ["chat", f"--model_dir={language_model_run}", "--chat_template=plain"]
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(CHAT) + "\n")
    (from_file,) = succeeded(mtfrun_here(*flags, f"--input={file}"))
    (from_flag,) = succeeded(mtfrun_here(*flags, "--prompt=the"))
    assert from_file["output"] == from_flag["output"]
    assert from_flag["prompt_tokens"] == len("User:\nthe\n\nAssistant:\n")
    line = error_line(mtfrun_here(*flags[:2], "--prompt=the"))
    assert "the run has no chat template: name one, --chat_template=chatml" in line
    file.write_text('{"messages": []}\n')
    assert f"{file}:1: it has no message" in error_line(mtfrun_here(*flags, f"--input={file}"))
    line = error_line(mtfrun_here(*flags, "--prompt=the", f"--input={file}"))
    assert "--prompt and --input: give one of them" in line
    line = error_line(mtfrun_here(*flags, f"--output={file}"))
    assert "a chat answers on the terminal" in line


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


@pytest.mark.slow
def test_conversations_are_trained_on_and_continued(tmp_path: pathlib.Path) -> None:
    lines = [json.dumps({**CHAT, "id": i}) + "\n" for i in range(300)]
    (tmp_path / "chats.jsonl").write_text("".join(lines))
    flags = [
        *("--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin"),
        *("--gin_file=extras/chat/data/conversations.gin", *TINY, *TWO_STEPS),
        *("--gin.SEQUENCE_LENGTH=64", f"--gin.JSONL_FILES='{tmp_path}/chats.jsonl'"),
    ]
    shown = mtfrun_here("data", "show", "--tokens", "--rows=1", *flags).stdout.decode()
    assert "segment 1: 29 tokens, loss on 4" in shown
    assert "train: " in mtfrun_here("data", "show", "--stats", *flags).stdout.decode()
    trained = mtfrun_here("train", *flags, f"--model_dir={tmp_path}/run")
    assert succeeded(trained) == []
    assert b"mtfrun chat --model_dir=" in trained.stderr
    stdin = b"the\n/temperature 0.5\nthe\n"
    process = mtfrun_here("chat", f"--model_dir={tmp_path}/run", stdin=stdin)
    assert process.returncode == 0, process.stderr.decode()
    asked = ["decode", f"--model_dir={tmp_path}/run", "--input=split:validation"]
    assert {record["target"] for record in succeeded(mtfrun_here(*asked))} == {"fox"}
    inference = mtfrun.load(tmp_path / "run").experiment.inference
    continued = inference.with_settings({"chat": None})
    tokens = [x.records([b"the"])[0].fields["prompt_tokens"] for x in (inference, continued)]
    assert tokens == [len("User:\nthe\n\nAssistant:\n"), 3]
