"""Files of conversations in OpenAI's and in ShareGPT's form."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.data import DataError
from mtfrun.extras.chat import Conversations

HELLO = {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "!"}]}


def _read(tmp_path: pathlib.Path, *lines: str, skip_bad_records: int = 0) -> list[object]:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines))
    source = Conversations({"train": str(path)}, skip_bad_records=skip_bad_records)
    return [json.loads(example.fields["targets"]) for example in source.examples("train")]


def test_both_forms_are_the_same_conversation(tmp_path: pathlib.Path) -> None:
    turns = [{"from": "human", "value": "é"}, {"from": "gpt", "value": "!"}]
    lines = [json.dumps(record) for record in (HELLO, {"conversations": turns, "id": 7})]
    assert _read(tmp_path, lines[0], "", lines[1]) == [HELLO, HELLO]
    system = {"role": "system", "content": "Be brief."}
    with_system = json.dumps({"conversations": turns, "system": "Be brief."})
    assert _read(tmp_path, with_system) == [{"messages": [system, *HELLO["messages"]]}]


def test_tools_and_further_fields_of_messages_remain(tmp_path: pathlib.Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    record = {"messages": [call], "tools": [{"name": "f"}]}
    assert _read(tmp_path, json.dumps({**record, "seed": 1})) == [record]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"text": "a"}', 'it has no list "messages" or "conversations"; it has text'),
        ('{"messages": []}', "it has no message"),
        ('{"messages": [{"role": "user"}]}', 'message 1 has no text "content"'),
        ('{"messages": [{"content": "a"}]}', 'message 1 has no text "role"'),
        ('{"conversations": [{"from": "gpt"}]}', 'message 1 has no texts "from" and "value"'),
        ('{"conversations": [{"from": "gtp", "value": ""}]}', "did you mean 'gpt'"),
        (json.dumps({"messages": [{"role": "user", "content": "a" * (1 << 20)}]}), "more than"),
    ],
)
def test_a_bad_record_is_named_or_left_out(tmp_path: pathlib.Path, line: str, reason: str) -> None:
    good = json.dumps(HELLO)
    with pytest.raises(DataError, match=r"chats.jsonl:2: ") as raised:
        _read(tmp_path, good, line)
    assert reason in str(raised.value)
    assert _read(tmp_path, good, line, skip_bad_records=1) == [HELLO]
