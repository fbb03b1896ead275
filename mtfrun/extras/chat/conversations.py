"""Conversations: the forms of JSON that they have, and how a template makes prompts of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import TARGETS
from mtfrun.data.prompts import (
    ConversationTemplate,
    LanguageModelPrompts,
    PromptLimits,
    PromptRow,
    ScoredRow,
    bucket,
)
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
# An assistant's turn, to find what the template writes behind one.
_PROBE = "\ue000"
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

    Without its turns of which "weight" is 0, which OpenAI's form has.
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


class ConversationPrompts(LanguageModelPrompts):
    """Prompts are conversations, which an assistant's next turn continues.

    A prompt is an object {"messages": ...} in JSON, see `conversation_of`, else a user's only
    message. Of one that is too long the oldest turns are left out, but not the system's.
    """

    def __init__(self, vocabulary: Vocabulary, limits: PromptLimits, template: Template):
        super().__init__(vocabulary, limits)
        self._template = template
        end = _turn_end(vocabulary, template)
        self._turn_end, _ = vocabulary.encode_spans(end, [])
        if len(self._turn_end) and vocabulary.bytes_per_id[self._turn_end[0]] <= 0:
            self.end_ids = [int(self._turn_end[0])]  # a special token
        elif end:
            self.stop = [end]

    def row(self, prompt: bytes) -> PromptRow:
        conversation = _conversation_of_prompt(prompt)
        ids, _ = self._encode(conversation, asks=True)
        whole = len(ids)
        while len(ids) > self.longest and (shorter := _without_oldest(conversation)):
            conversation = shorter
            ids, _ = self._encode(conversation, asks=True)
        row = self.row_of(ids)
        return row._replace(truncated=row.truncated + whole - len(ids))

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row of a conversation with the target as the assistant's turn."""
        conversation = _conversation_of_prompt(inputs)
        answer = {"role": ASSISTANT, "content": target.decode("utf-8", "replace")}
        conversation[MESSAGES] = [*conversation[MESSAGES], answer]
        ids, is_answer = self._encode(conversation, asks=False)
        # The last run of ids that an assistant writes.
        end = int(np.flatnonzero(is_answer)[-1]) + 1
        begin = int(np.flatnonzero(~is_answer[:end]).max(initial=-1)) + 1
        row = ids[max(0, end - self.max_lengths[TARGETS]) : end]
        cut = end - len(row)
        lengths = {TARGETS: bucket(len(row), self.max_lengths[TARGETS])}
        num_ends = len(self._turn_end)
        num_ends *= np.array_equal(row[len(row) - num_ends :], self._turn_end)
        return ScoredRow({TARGETS: row}, lengths, max(0, begin - cut), cut, num_ends)

    def _encode(
        self, conversation: Mapping[str, Any], *, asks: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        text = conversation_json(conversation)
        return encode_conversation(text, self._template, self.prompt_vocabulary, asks=asks)


def _turn_end(vocabulary: Vocabulary, template: Template) -> str:
    """Returns the text behind an assistant's turn, such as "<|im_end|>"; "" if it is not known."""
    messages = [{"role": USER, "content": "?"}, {"role": ASSISTANT, "content": _PROBE}]
    special = vocabulary.special_texts(template.special_tokens)
    try:
        text, answers = template({MESSAGES: messages}, special, asks=False)
    except DataError:  # it may want other messages before
        return ""
    begin, end = answers[-1] if answers else (0, 0)
    return text[begin:end].partition(_PROBE)[2].strip()


def _without_oldest(conversation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a conversation without the oldest turns of its user and of who answered them.

    None if there is only one user's turn.
    """
    messages = conversation[MESSAGES]
    turns = [number for number, message in enumerate(messages) if message["role"] == USER]
    if len(turns) < 2:
        return None
    instructions = [message for message in messages[: turns[0]] if message["role"] == SYSTEM]
    return {**conversation, MESSAGES: [*instructions, *messages[turns[1] :]]}


def _conversation_of_prompt(prompt: bytes) -> dict[str, Any]:
    if prompt.lstrip().startswith(b"{"):
        try:
            return conversation_of(json_value(prompt))
        except BadRecordError:
            pass  # a message that happens to begin like one
    return {MESSAGES: [{"role": USER, "content": prompt.decode("utf-8", "replace")}]}
