"""What differs between OpenAI's answers with texts and with messages."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from mtfrun.extras.serving.served_model import Token


class Form(abc.ABC):
    """The form of an answer.

    Attributes:
      name, part_name: names of an answer, and of an event of one.
      prefix: prefix of the answer's id.
    """

    name: str
    part_name: str
    prefix: str

    @abc.abstractmethod
    def whole(self, text: str) -> dict[str, Any]:
        """Returns the fields of an output."""

    @abc.abstractmethod
    def part(self, text: str, is_first: bool) -> dict[str, Any]:  # noqa: FBT001 - says itself
        """Returns the fields of a part of one."""

    @abc.abstractmethod
    def log_probs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Returns the log-probabilities of tokens."""


class _Text(Form):
    name = part_name = "text_completion"
    prefix = "cmpl-"

    def whole(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part(self, text: str, is_first: bool) -> dict[str, Any]:  # noqa: FBT001 - as above
        return {"text": text}

    def log_probs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": None,
            "text_offset": None,
        }


class _Message(Form):
    name, part_name = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl-"

    def whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text: str, is_first: bool) -> dict[str, Any]:  # noqa: FBT001 - as above
        # Clients join the texts of all parts, the role's too.
        return {"delta": {**({"role": "assistant"} if is_first else {}), "content": text}}

    def log_probs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        fields: dict[str, object] = {"bytes": None, "top_logprobs": []}
        return {"content": [{"token": x.text, "logprob": x.log_prob, **fields} for x in tokens]}


TEXT, CHAT = _Text(), _Message()
