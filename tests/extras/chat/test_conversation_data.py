"""Files and rows of conversations: forms, packing, the weights of the loss, truncation."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun.data import ByteVocabulary, DataError, PromptFormat, PromptLimits, Task, Vocabulary
from mtfrun.data.vocabularies.id_vocabulary import IdVocabulary
from mtfrun.extras.chat import ConversationData, Conversations
from mtfrun.extras.chat.messages import Rendered
from mtfrun.extras.chat.prompts import ConversationPrompts
from tests.data.in_memory import InMemory

END = 1


@dataclasses.dataclass(frozen=True)
class Letters:
    """Writes the first letter of a role, the content, and after an assistant's the end."""

    special_tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str = "letters"
    files: Sequence[str] = ("letters.txt",)

    def __call__(
        self, conversation: Mapping[str, Any], special_tokens: Mapping[str, str], *, asks: bool
    ) -> Rendered:
        text, answers = "", []
        for message in conversation["messages"]:
            text += message["role"][0]
            begin = len(text)
            if message["content"] == "refused":
                raise DataError("no")
            text += message["content"]
            if message["role"] == "assistant":
                text += special_tokens["eos_token"]
                answers.append((begin, len(text)))
        return Rendered(text + "a" * asks, answers)

    def prompt_format(self, vocabulary: Vocabulary, limits: PromptLimits) -> PromptFormat:
        return ConversationPrompts(vocabulary, limits, self)


def _conversation(*contents: str) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return json.dumps({"messages": messages}).encode()


def _data(
    *conversations: bytes, length: int = 12, vocabulary: Vocabulary | None = None
) -> ConversationData:
    source = InMemory(tuple((text,) for text in conversations), ("targets",))
    return ConversationData(Task(source, vocabulary or ByteVocabulary()), Letters(), length)


def _ids(text: str) -> list[int]:
    """Returns the ids of bytes; "." is the end."""
    return [END if character == "." else ord(character) + 3 for character in text]


def test_the_loss_is_on_what_the_assistant_writes() -> None:
    data = _data(_conversation("ab", "xy", "c", "z"))
    (batch,) = data.evaluation(1)
    assert batch["targets"].tolist() == [_ids("uabaxy.ucaz.")]  # cut before its own end
    (batch,) = _data(_conversation("ab", "xy", "c", "z"), length=16).evaluation(1)
    ids = _ids("uabaxy.ucaz..")
    assert batch["targets"].tolist() == [[*ids, 0, 0, 0]]
    weights = [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert batch["targets_weights"].tolist() == [weights]


def test_a_turn_of_weight_0_has_no_loss() -> None:
    conversation = json.loads(_conversation("a", "x", "b", "y"))
    conversation["messages"][1]["weight"] = 0
    (batch,) = _data(json.dumps(conversation).encode(), length=9).evaluation(1)
    assert batch["targets"].tolist() == [_ids("uaax.uba.")]
    (batch,) = _data(json.dumps(conversation).encode(), length=11).evaluation(1)
    assert batch["targets_weights"].tolist() == [[0] * 8 + [1, 1, 0]]


def test_packed_conversations_have_segments_and_weights_of_their_own() -> None:
    data = _data(_conversation("a", "x"), _conversation("b", "y", "c"), length=14)
    batch = next(data.train(1, seed=0))
    assert {name: x.shape for name, x in batch.items()} == {
        name: tuple(shape.to_integer_list) for name, shape in data.shapes(1).items()
    }
    assert all(x.dtype == np.int32 for x in batch.values())
    (segments,) = batch["targets_segmentation"]
    for number, length in zip((1, 2), np.bincount(segments)[1:], strict=True):
        here = segments == number
        text, weights = {6: ("uaax..", "000110"), 8: ("ubay.uc.", "00011000")}[int(length)]
        assert batch["targets"][0][here].tolist() == _ids(text)
        assert batch["targets_weights"][0][here].tolist() == list(map(int, weights))
        assert batch["targets_position"][0][here].tolist() == list(range(length))
    assert batch["targets_weights"][0][segments == 0].tolist() == []


def test_rows_of_a_vocabulary_whose_padding_is_negative() -> None:
    vocabulary = IdVocabulary(8, pad_id=-1)

    class Words(Letters):
        def __call__(
            self, conversation: Mapping[str, Any], special_tokens: Mapping[str, str], *, asks: bool
        ) -> Rendered:
            return Rendered("0 5 0 6", [(4, 7)])

    data = dataclasses.replace(_data(_conversation("a", "x"), vocabulary=vocabulary), length=7)
    data = dataclasses.replace(data, template=Words())
    (batch,) = data.evaluation(1)
    assert batch["targets"].tolist() == [[0, 5, 0, 6, 1, -1, -1]]
    assert batch["targets_weights"].tolist() == [[0, 0, 1, 1, 0, 0, 0]]


def test_a_template_that_refuses_a_conversation_names_it() -> None:
    with pytest.raises(DataError, match=r'^no; the conversation is {"messages": .*refused'):
        next(_data(_conversation("refused")).train(1, seed=0))


def test_prompts_are_conversations_or_a_message() -> None:
    data = _data(_conversation("a", "x"))
    prompts = data.prompt_format(PromptLimits(64, 8))
    for prompt, text in (
        (b"hi", "uhia"),
        (b'{"hi": 1}', 'u{"hi": 1}a'),
        (_conversation("a", "x", "b"), "uaax.uba"),
    ):
        assert prompts.row(prompt).ids.tolist() == _ids(text)
    scored = prompts.scored_row(_conversation("a", "x", "b"), b"yz")
    assert scored.features["targets"].tolist() == _ids("uaax.ubayz.")
    assert (scored.begin, scored.truncated) == (8, 0)
    short = data.prompt_format(PromptLimits(5, 2)).scored_row(b"abc", b"yz")
    assert short.features["targets"].tolist() == _ids("cayz.")
    assert (short.begin, short.truncated) == (2, 3)


def test_an_output_ends_where_the_turn_of_an_assistant_does() -> None:
    class Bars(Letters):
        def __call__(
            self, conversation: Mapping[str, Any], special_tokens: Mapping[str, str], *, asks: bool
        ) -> Rendered:
            text, answers = super().__call__(conversation, {"eos_token": "|"}, asks=asks)
            return Rendered(f"{text} ", [(begin, end) for begin, end in answers])

    prompts = _data(_conversation("a")).prompt_format(PromptLimits(64, 8))
    assert (list(prompts.stop), list(prompts.end_ids)) == ([], [END])
    data = dataclasses.replace(_data(_conversation("a")), template=Bars())
    prompts = data.prompt_format(PromptLimits(64, 8))
    assert (list(prompts.stop), list(prompts.end_ids)) == (["|"], [])


def test_the_oldest_turns_of_a_long_conversation_are_dropped() -> None:
    conversation = json.loads(_conversation("a", "x", "b", "y", "c"))
    conversation["messages"].insert(0, {"role": "system", "content": "!"})
    data = _data(_conversation("a", "x"))
    for longest, text in ((15, "s!uaax.ubay.uca"), (14, "s!ubay.uca"), (5, "s!uca"), (4, "!uca")):
        limits = PromptLimits(longest + 1, 1)
        row = data.prompt_format(limits).row(json.dumps(conversation).encode())
        assert row.ids.tolist() == _ids(text) and row.read == len(text)
        assert row.truncated == len("s!uaax.ubay.uca") - len(text)


def test_examples_ask_for_the_last_answer() -> None:
    data = _data(_conversation("a", "x", "b", "y"), _conversation("a"))
    (example,) = data.examples("train")
    assert json.loads(example["inputs"]) == json.loads(_conversation("a", "x", "b"))
    assert example["targets"] == b"y"
    assert list(data.source_texts("train", ["targets"])) == [b"a", b"x", b"b", b"y", b"a"]
    assert data.vocabulary_files() == ["letters.txt"]


def test_another_template_is_another_cache(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path))
    data = _data(_conversation("a", "x"))
    other = dataclasses.replace(data, template=Letters(fingerprint="other"))
    directories = {next(iter(x.caches("train"))).directory for x in (data, data, other)}
    assert len(directories) == 2


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
