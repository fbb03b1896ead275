"""Prompts of conversations: which messages a long one loses, and where an answer ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import TARGETS
from mtfrun.data.prompts import LanguageModelPrompts, PromptLimits, PromptRow, ScoredRow, bucket
from mtfrun.data.sources.records import BadRecordError, json_value
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.extras.chat.messages import (
    ASSISTANT,
    MESSAGES,
    SYSTEM,
    USER,
    Template,
    conversation_json,
    conversation_of,
    encode_conversation,
)

# An assistant's turn, to find what the template writes after it.
_PROBE = "\ue000"


class ConversationPrompts(LanguageModelPrompts):
    """Prompts are conversations, which an assistant's next turn continues.

    A prompt is an object {"messages": ...} in JSON, see `conversation_of`, or a user's only
    message. If it is too long, its oldest turns are dropped, but not the system's message.
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
        while len(ids) > self.longest and (shorter := _drop_oldest_turn(conversation)):
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
    """Returns the text after an assistant's turn, such as "<|im_end|>"; "" if unknown."""
    messages = [{"role": USER, "content": "?"}, {"role": ASSISTANT, "content": _PROBE}]
    special = vocabulary.special_texts(template.special_tokens)
    try:
        text, answers = template({MESSAGES: messages}, special, asks=False)
    except DataError:  # it may want other messages before
        return ""
    begin, end = answers[-1] if answers else (0, 0)
    return text[begin:end].partition(_PROBE)[2].strip()


def _drop_oldest_turn(conversation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Drops the user's first message and what answered it; None if it is the user's only one."""
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
