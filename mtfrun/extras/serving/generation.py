"""Requests that decode: OpenAI's completions and chats."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from mtfrun.decoding import Constraint, Controls
from mtfrun.decoding.controls.processors import FrequencyPenalty, PresencePenalty
from mtfrun.errors.checks import COUNT, INDEX, NOT_NEGATIVE, SHARE_ABOVE_0, Range
from mtfrun.extras.constraints import JsonSchema, Regex
from mtfrun.extras.serving.fields import Fields, RequestError

# Fields of OpenAI's requests that change no output here.
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
_SETTINGS: Mapping[str, Range] = {
    "temperature": NOT_NEGATIVE,
    "top_p": SHARE_ABOVE_0,
    "top_k": INDEX,
    "beam_size": COUNT,
    "alpha": NOT_NEGATIVE,
}
_PENALTIES = {"frequency_penalty": FrequencyPenalty, "presence_penalty": PresencePenalty}
_PENALTY = Range(-2.0, 2.0)
_SEEDS = Range(-(2**63), 2**63 - 1, whole=True)
_MOST_STOPS, _LONGEST_STOP = 4, 100
# Outputs or beams of a prompt.
_MOST_OUTPUTS = 16
MOST_PROMPTS = 64
"""Prompts, images, pairs or texts of a request."""

_SCHEMA_FIELDS = {"name", "description", "schema", "strict"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests: of the server's time and memory, not of the model.

    Attributes:
      body_bytes: bytes of a request's body.
      tokens: tokens of one output.
      requests: requests that are answered or wait; further ones are refused.
      seconds: seconds until an unanswered request is refused.
    """

    body_bytes: int = 4_000_000
    tokens: int = 4096
    requests: int = 64
    seconds: float = 120.0


class DecodingKey(NamedTuple):
    """What a program is compiled for: what differs from the configuration's decoding.

    `controls` are penalties and constraints, with stop texts only if there are constraints, which
    keep them out of the required text.
    """

    settings: tuple[tuple[str, Any], ...]
    controls: Controls
    is_chat: bool


class Generation(NamedTuple):
    """The prompts and settings of a request.

    Attributes:
      prompts: texts, conversations in JSON, or lists of ids.
      stop: texts that end an output besides the configuration's.
      seed: seed of the draws; random if the request has none.
      with_log_probs: whether to return the log-probability of each token.
      streams: whether text is sent as it is decoded.
      streams_usage: whether the numbers of tokens follow it.
    """

    prompts: list[str] | list[list[int]]
    key: DecodingKey
    stop: tuple[str, ...]
    seed: int
    with_log_probs: bool
    streams: bool
    streams_usage: bool

    @property
    def key_with_seed(self) -> DecodingKey:
        return self.key._replace(settings=(*self.key.settings, ("seed", self.seed)))


def read_completion(fields: Fields, limits: Limits) -> Generation:
    fields.refuse("suffix", unless=[""])
    fields.refuse("echo", unless=[False])
    fields.refuse("best_of", unless=[1, fields.get("n")])
    log_probs = fields.get("logprobs")
    if log_probs is not None and (isinstance(log_probs, bool) or log_probs not in (0, 1)):
        raise fields.error("logprobs", "must be 0 or 1: the tokens of the output only")
    prompts = read_texts(fields, "prompt")
    return _read(fields, prompts, limits, log_probs=log_probs is not None, is_chat=False)


def read_chat(fields: Fields, limits: Limits) -> Generation:
    fields.refuse("top_logprobs", unless=[0])
    field = "messages"
    messages = fields.get(field)
    if not isinstance(messages, list) or not messages:
        raise RequestError('messages must be a list of {"role": ..., "content": ...}', field=field)
    conversation = {"messages": [_with_text(message) for message in messages]}
    log_probs = fields.flag("logprobs")
    return _read(fields, [json.dumps(conversation)], limits, log_probs=log_probs, is_chat=True)


def _with_text(message: object) -> dict[str, object]:
    """Returns a message with the texts of its content joined to one."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError('messages has one without a text "role"', field="messages")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise RequestError('messages has one whose "content" is not text', field="messages")
    return {**message, "content": "".join(map(str, texts))}


def _read(
    fields: Fields,
    prompts: list[str] | list[list[int]],
    limits: Limits,
    *,
    log_probs: bool,
    is_chat: bool,
) -> Generation:
    """Reads all fields but the prompts; RequestError for a bad one."""
    fields.refuse("logit_bias", unless=[{}])
    settings = {name: fields.number(name, allowed) for name, allowed in _SETTINGS.items()}
    if (settings["beam_size"] or 1) > _MOST_OUTPUTS:
        raise fields.error("beam_size", f"must be at most {_MOST_OUTPUTS}")
    # OpenAI has two names, the later one for conversations only.
    for name in ("max_tokens", "max_completion_tokens")[: 1 + is_chat]:
        number = fields.number(name, Range(1, limits.tokens, whole=True))
        settings["decode_length"] = number or settings.get("decode_length")
    settings["num_outputs"] = fields.number("n", Range(1, _MOST_OUTPUTS, whole=True)) or 1
    penalties = {name: fields.number(name, _PENALTY) for name in _PENALTIES}
    processors = tuple(_PENALTIES[name](float(x)) for name, x in penalties.items() if x)
    constraints, stop = _read_constraints(fields), _read_stops(fields)
    controls = Controls(processors, constraints=constraints, stop=stop if constraints else ())
    seed = fields.number("seed", _SEEDS)
    stream_options = fields.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise fields.error("stream_options", "must be an object")
    streams = fields.flag("stream")
    for name in _IGNORED:
        fields.get(name)
    fields.check_names()
    changed = tuple((name, value) for name, value in settings.items() if value is not None)
    return Generation(
        prompts,
        DecodingKey(changed, controls, is_chat),
        stop,
        secrets.randbits(31) if seed is None else seed,
        log_probs,
        streams,
        bool((stream_options or {}).get("include_usage")),
    )


def read_texts(fields: Fields, name: str) -> list[str] | list[list[int]]:
    """Reads a field with a text, ids, a list of texts or a list of lists of ids."""
    value = fields.get(name)
    if value is None:
        raise RequestError(f'the request has no "{name}"', field=name)
    is_list = isinstance(value, list)
    if is_list and value and all(map(_is_id, value)):
        return [value]
    if is_list and value and all(isinstance(x, list) and x and all(map(_is_id, x)) for x in value):
        fields.check_count(name, value, MOST_PROMPTS)
        return list(value)
    return fields.texts(name, MOST_PROMPTS)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _read_constraints(fields: Fields) -> tuple[Constraint, ...]:
    """Reads OpenAI's response_format and vLLM's guided_regex."""
    expression, form = fields.text("guided_regex"), fields.get("response_format")
    if expression is not None and form is not None:
        raise fields.error("guided_regex", "cannot be together with response_format")
    if expression is not None:
        return (Regex(expression),)
    if form is None:
        return ()
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text" and form.keys() == {"type"}:
        return ()
    if kind == "json_object" and form.keys() == {"type"}:
        return (JsonSchema('{"type": "object"}'),)
    if kind == "json_schema" and form.keys() == {"type", "json_schema"}:
        value = form["json_schema"]
        known = isinstance(value, dict) and value.keys() <= _SCHEMA_FIELDS
        if known and isinstance(value.get("schema"), dict):
            return (JsonSchema(json.dumps(value["schema"])),)
    raise fields.error(
        "response_format",
        'must be {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", '
        '"json_schema": {"name": TEXT, "schema": {...}}}',
    )


def _read_stops(fields: Fields) -> tuple[str, ...]:
    if "stop" not in fields or fields.get("stop") == []:
        return ()
    stops = fields.texts("stop", _MOST_STOPS)
    if not all(0 < len(stop) <= _LONGEST_STOP for stop in stops):
        raise fields.error("stop", f"must have texts of 1 to {_LONGEST_STOP} characters")
    return tuple(stops)
