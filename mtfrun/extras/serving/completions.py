"""OpenAI's form of completions, whole or as events."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from mtfrun.configuration.errors import one_line
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.checks import Range
from mtfrun.extras.serving.fields import Fields, RequestError
from mtfrun.extras.serving.generation import Generation, Limits, read_generation, read_texts
from mtfrun.extras.serving.served_model import Piece, Prepared, ServedModel, Token


class Form:
    """OpenAI's form of an answer with texts; `_Chat` is that of messages."""

    name = part_name = "text_completion"
    prefix = "cmpl-"

    def whole(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part(self, text: str, *, is_first: bool) -> dict[str, Any]:
        del is_first
        return {"text": text}

    def log_probs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": None,
            "text_offset": None,
        }


class _Chat(Form):
    name, part_name = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl-"

    def whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text: str, *, is_first: bool) -> dict[str, Any]:
        # Clients join the texts of all parts, the role's too.
        return {"delta": {**({"role": "assistant"} if is_first else {}), "content": text}}

    def log_probs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        fields: dict[str, object] = {"bytes": None, "top_logprobs": []}
        return {"content": [{"token": x.text, "logprob": x.log_prob, **fields} for x in tokens]}


TEXT, CHAT = Form(), _Chat()


def read_chat(fields: Fields, limits: Limits) -> Generation:
    fields.refuse("top_logprobs", unless=[0])
    field = "messages"
    messages = fields.get(field)
    if not isinstance(messages, list) or not messages:
        raise RequestError('messages must be a list of {"role": ..., "content": ...}', field=field)
    conversation = {"messages": [_with_text(message) for message in messages]}
    tokens = fields.number("max_completion_tokens", Range(1, limits.tokens, whole=True))
    generation = read_generation(
        fields, [json.dumps(conversation)], limits, log_probs=fields.flag("logprobs")
    )
    if tokens is not None:  # the later of OpenAI's two names, for conversations only
        generation.settings["decode_length"] = tokens
    return dataclasses.replace(generation, is_chat=True)


def _with_text(message: object) -> dict[str, object]:
    """Returns a message with the texts of its content joined to one."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError('messages has one without a text "role"', field="messages")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise RequestError('messages has one whose "content" is not text', field="messages")
        texts.append(text)
    return {**message, "content": "".join(texts)}


def read_completion(fields: Fields, limits: Limits) -> Generation:
    fields.refuse("suffix", unless=[""])
    fields.refuse("echo", unless=[False])
    fields.refuse("best_of", unless=[1, fields.get("n")])
    log_probs = fields.get("logprobs")
    if log_probs is not None and (isinstance(log_probs, bool) or log_probs not in (0, 1)):
        raise fields.error("logprobs", "must be 0 or 1: the tokens of the output only")
    return read_generation(
        fields, read_texts(fields, "prompt", limits), limits, log_probs=log_probs is not None
    )


class Completion:
    """The answer to a request, in OpenAI's form; `count` takes the numbers of its tokens."""

    def __init__(
        self, model: ServedModel, prepared: Prepared, count: Callable[[int], None], form: Form
    ):
        self._model, self._prepared, self._count, self._form = model, prepared, count, form
        self._generation = prepared.generation
        self._head = {
            "id": f"{form.prefix}{secrets.token_hex(12)}",
            "object": form.name,
            "created": int(time.time()),
            "model": model.name,
        }
        self._tokens = 0

    async def whole(self) -> dict[str, Any]:
        number = len(self._prepared.rows) * self._generation.num_outputs
        pieces: list[list[Piece]] = [[] for _ in range(number)]
        async for piece in self._pieces():
            pieces[piece.output].append(piece)
        choices = [self._choice(output) for output in pieces]
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[str]:
        """Yields the lines of server-sent events, as text is decoded."""
        head, begun = {**self._head, "object": self._form.part_name}, set[int]()
        try:
            async for piece in self._pieces():
                if piece.text or piece.finish or piece.tokens:
                    is_first = piece.output not in begun
                    begun.add(piece.output)
                    choice = self._choice([piece], is_part=True, is_first=is_first)
                    yield event({**head, "choices": [choice]})
            if self._generation.streams_usage:
                yield event({**head, "choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status has been sent
            yield event(error_body(refuse_error(error)))

    async def _pieces(self) -> AsyncGenerator[Piece]:
        async with contextlib.aclosing(self._model.outputs(self._prepared)) as pieces:
            async for piece in pieces:
                self._tokens += piece.num_tokens
                self._count(piece.num_tokens)
                yield piece

    def _choice(
        self, pieces: list[Piece], *, is_part: bool = False, is_first: bool = False
    ) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        content = self._form.part(text, is_first=is_first) if is_part else self._form.whole(text)
        log_probs = None
        if self._generation.with_log_probs:
            log_probs = self._form.log_probs([x for piece in pieces for x in piece.tokens])
        return {
            "index": pieces[0].output,
            **content,
            "logprobs": log_probs,
            "finish_reason": pieces[-1].finish,
        }

    def _usage(self) -> dict[str, int]:
        prompt = self._prepared.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._tokens,
            "total_tokens": prompt + self._tokens,
        }


def event(value: object) -> str:
    return f"data: {json.dumps(value)}\n\n"


def refuse_error(error: Exception) -> RequestError:
    """Returns what a client is told; a defect is printed with its traceback."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, InputError):
        return RequestError(one_line(error))
    progress.print_line("".join(traceback.format_exception(error)))
    return RequestError("a defect of the server: its log has the traceback", 500)


_TYPES = {401: "authentication_error", 503: "overloaded_error", 500: "server_error"}


def error_body(error: RequestError) -> dict[str, Any]:
    """Returns the JSON of a refusal, in OpenAI's form."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.field, "code": None}}
