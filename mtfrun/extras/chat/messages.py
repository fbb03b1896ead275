"""Messages of a conversation: their forms in JSON, and their ids by a template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.prompts import ConversationTemplate
from mtfrun.data.sources.records import BadRecordError, json_value
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors import did_you_mean, shorten

MESSAGES = "messages"
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"

# The fields of the messages in ShareGPT's form, and its names of the roles.
_SHARE_GPT = "conversations"
_ROLES = {
    **{SYSTEM: SYSTEM, "human": USER, USER: USER, "tool": "tool", "observation": "tool"},
    **dict.fromkeys(("gpt", ASSISTANT, "chatgpt", "bing", "bard", "model"), ASSISTANT),
}
# Characters of a conversation in a message.
_LONGEST_BEGINNING = 100


class Rendered(NamedTuple):
    """A conversation as a text, and [begin, end) of the characters that an assistant writes."""

    text: str
    answers: Sequence[tuple[int, int]]


class Template(ConversationTemplate, Protocol):
    """How a conversation becomes text."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Known texts of special tokens by name, such as "eos_token"."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that determines the texts."""

    @property
    def files(self) -> Sequence[str]:
        """The template's files."""

    def __call__(
        self, conversation: Mapping[str, Any], special_tokens: Mapping[str, str], *, asks: bool
    ) -> Rendered:
        """Returns the text; with `asks` also the beginning of the assistant's next turn.

        Raises DataError if the template refuses the conversation, without its place.
        """


def conversation_of(record: object) -> dict[str, Any]:
    """Returns {"messages": [{"role", "content"}, ...]}, and "tools" if there are any, of a record.

    The record has this form, OpenAI's, or ShareGPT's: {"conversations": [{"from", "value"}, ...]},
    perhaps with a text "system". Further fields of OpenAI's messages remain; BadRecordError.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError('it is not a JSON object, {"messages": [...]}')
    if isinstance(record.get(MESSAGES), list):
        messages = [_message(number, m) for number, m in enumerate(record[MESSAGES], 1)]
    elif isinstance(record.get(_SHARE_GPT), list):
        messages = [_of_share_gpt(number, m) for number, m in enumerate(record[_SHARE_GPT], 1)]
        if isinstance(record.get(SYSTEM), str) and record[SYSTEM]:
            messages.insert(0, {"role": SYSTEM, "content": record[SYSTEM]})
    else:
        raise BadRecordError(
            f'it has no list "{MESSAGES}" or "{_SHARE_GPT}"; it has {", ".join(record) or "none"}'
        )
    if not messages:
        raise BadRecordError("it has no message")
    tools = record.get("tools")
    return {MESSAGES: messages, **({"tools": tools} if isinstance(tools, list) and tools else {})}


def _message(number: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRecordError(f'message {number} has no text "role"')
    content = message.get("content")
    if not isinstance(content, str | list) and not (content is None and "tool_calls" in message):
        raise BadRecordError(f'message {number} has no text "content"')
    return dict(message)


def _of_share_gpt(number: int, message: object) -> dict[str, Any]:
    texts = [message.get(name) for name in ("from", "value")] if isinstance(message, dict) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadRecordError(f'message {number} has no texts "from" and "value"')
    role, content = map(str, texts)
    if role not in _ROLES:
        hint = did_you_mean(role, _ROLES) or f"; known are {', '.join(_ROLES)}"
        raise BadRecordError(f'message {number} is from "{shorten(role, 40)}"{hint}')
    return {"role": _ROLES[role], "content": content}


def conversation_json(conversation: Mapping[str, Any]) -> bytes:
    """Returns the text of a conversation as examples and prompts have it."""
    return json.dumps(conversation, ensure_ascii=False).encode("utf-8", "replace")


def read_conversation(text: bytes) -> dict[str, Any]:
    """Returns the conversation of a JSON text; a DataError names its beginning."""
    try:
        return conversation_of(json_value(text))
    except BadRecordError as error:
        raise _bad(text, error) from error


def encode_conversation(
    text: bytes, template: Template, vocabulary: Vocabulary, *, asks: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the int32 ids of a conversation in JSON, and which of them an assistant writes.

    Turns of "weight" 0, which OpenAI's form has, do not count as written by an assistant.
    """
    conversation = read_conversation(text)
    special = vocabulary.special_texts(template.special_tokens)
    try:
        rendered = template(conversation, special, asks=asks)
        answers = _apply_weights(rendered.answers, conversation[MESSAGES])
        return vocabulary.encode_spans(rendered.text, answers)
    except DataError as error:
        raise _bad(text, error) from error


def _apply_weights(
    answers: Sequence[tuple[int, int]], messages: Sequence[Mapping[str, Any]]
) -> Sequence[tuple[int, int]]:
    has_weight = [m.get("weight") != 0 for m in messages if m["role"] == ASSISTANT]
    if all(has_weight):
        return answers
    if len(answers) != len(has_weight):
        turns = f"{len(answers)} of {len(has_weight)} turns of an assistant"
        raise DataError(f'the template marks {turns}: a "weight" needs all')
    return [span for span, counts in zip(answers, has_weight, strict=True) if counts]


def _bad(text: bytes, error: Exception) -> DataError:
    beginning = shorten(text.decode("utf-8", "replace"), _LONGEST_BEGINNING)
    return DataError(f"{error}; the conversation is {beginning}")
