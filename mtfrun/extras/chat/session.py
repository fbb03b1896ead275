"""What `mtfrun chat` reads: the lines of a conversation, or conversations in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from mtfrun.cli.inputs_and_outputs import InputSource, read_lines
from mtfrun.cli.interactive import Session
from mtfrun.data.sources.records import BadRecordError, json_value
from mtfrun.data.sources.streams import kind_of
from mtfrun.errors import InputError
from mtfrun.extras.chat.messages import (
    ASSISTANT,
    MESSAGES,
    SYSTEM,
    USER,
    conversation_json,
    conversation_of,
)


@dataclasses.dataclass
class Chat(Session):
    """A session in which each line is a user's turn in one conversation."""

    help: ClassVar[str] = f"""{Session.help}
/system TEXT       begins a new conversation, with instructions
/clear             begins a new conversation
/undo              removes the last question and its answer"""

    messages: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def answer(self, line: bytes) -> None:
        question = {"role": USER, "content": line.decode("utf-8", "replace")}
        messages = [*self.messages, question]
        output = self.ask(
            conversation_json({MESSAGES: messages}),
            "the conversation is longer than the model reads: its oldest turns were dropped",
        )
        self.messages = [*messages, {"role": ASSISTANT, "content": output}]

    @property
    def commands(self) -> Mapping[str, Callable[[str], None]]:
        return {**super().commands, "system": self._begin, "clear": self._begin, "undo": self._undo}

    def _begin(self, instructions: str) -> None:
        self.messages = [{"role": SYSTEM, "content": instructions}] if instructions else []

    def _undo(self, _: str) -> None:
        self.messages = self.messages[:-2] if len(self.messages) > 1 else self.messages


class ChatSource(InputSource):
    """The input of `chat`: lines of `.jsonl` are conversations, see `chat.Conversations`."""

    def texts(self) -> Sequence[bytes]:
        if self.path is None or kind_of(self.path) != ".jsonl":
            return super().texts()
        lines = enumerate(read_lines(self.path), 1)
        return [_conversation(f"{self.path}:{number}", line) for number, line in lines]


def _conversation(place: str, line: bytes) -> bytes:
    """Returns the conversation of a line, without the answers that end it."""
    try:
        conversation = conversation_of(json_value(line))
    except BadRecordError as error:
        raise InputError(f"{place}: {error}") from None
    while conversation[MESSAGES] and conversation[MESSAGES][-1]["role"] == ASSISTANT:
        conversation[MESSAGES].pop()
    if not conversation[MESSAGES]:
        raise InputError(f"{place}: there is nothing to answer")
    return conversation_json(conversation)
