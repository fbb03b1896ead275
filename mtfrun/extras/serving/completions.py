"""OpenAI's form of completions and chats, whole or as events."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from mtfrun.experiment.inference.answers import LogProb
from mtfrun.extras.serving.fields import refusal_of
from mtfrun.extras.serving.served_model import Piece, Prepared, ServedModel


class Completion:
    """The answer to a request; `count` takes the numbers of its tokens."""

    def __init__(self, model: ServedModel, prepared: Prepared, count: Callable[[int], None]):
        self._model, self._prepared, self._count = model, prepared, count
        self._is_chat = prepared.generation.key.is_chat
        self._head = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "chat.completion" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }
        self._tokens = 0

    async def whole(self) -> dict[str, Any]:
        outputs: list[list[Piece]] = [[] for _ in range(self._prepared.outputs)]
        async for piece in self._pieces():
            outputs[piece.output].append(piece)
        choices = []
        for pieces in outputs:
            text = "".join(piece.text for piece in pieces)
            message = {"role": "assistant", "content": text, "refusal": None}
            content = {"message": message} if self._is_chat else {"text": text}
            choices.append(self._choice(pieces, content))
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[str]:
        """Yields the lines of server-sent events, as text is decoded."""
        head, begun = self._head, set[int]()
        if self._is_chat:
            head = {**head, "object": "chat.completion.chunk"}
        try:
            async for piece in self._pieces():
                if piece.text or piece.finish or piece.tokens:
                    # Clients join the texts of all parts, the role's too.
                    role = {} if piece.output in begun else {"role": "assistant"}
                    begun.add(piece.output)
                    delta = {**role, "content": piece.text}
                    content = {"delta": delta} if self._is_chat else {"text": piece.text}
                    yield event({**head, "choices": [self._choice([piece], content)]})
            if self._prepared.generation.streams_usage:
                yield event({**head, "choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status has been sent
            yield event(refusal_of(error).body)

    async def _pieces(self) -> AsyncGenerator[Piece]:
        async with contextlib.aclosing(self._model.outputs(self._prepared)) as pieces:
            async for piece in pieces:
                self._tokens += piece.num_tokens
                self._count(piece.num_tokens)
                yield piece

    def _choice(self, pieces: list[Piece], content: dict[str, Any]) -> dict[str, Any]:
        log_probs = None
        if self._prepared.generation.with_log_probs:
            log_probs = self._log_probs([token for piece in pieces for token in piece.tokens])
        return {
            "index": pieces[0].output,
            **content,
            "logprobs": log_probs,
            "finish_reason": pieces[-1].finish,
        }

    def _log_probs(self, tokens: Sequence[LogProb]) -> dict[str, Any]:
        if self._is_chat:
            fields: dict[str, object] = {"bytes": None, "top_logprobs": []}
            return {
                "content": [{"token": x.token, "logprob": x.log_prob, **fields} for x in tokens]
            }
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": None,
            "text_offset": None,
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
