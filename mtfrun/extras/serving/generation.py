"""The settings of a request that decodes, of OpenAI's completions and chats."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any

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

_SCHEMA_FIELDS = {"name", "description", "schema", "strict"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests: of the server's time and memory, not of the model.

    Attributes:
      body_bytes: bytes of a request's body.
      prompts: prompts, images, pairs or texts of a request.
      outputs: outputs of one prompt; beams as well.
      tokens: tokens of one output.
      requests: requests that are answered or wait; further ones are refused.
      seconds: seconds until an unanswered request is refused.
    """

    body_bytes: int = 4_000_000
    prompts: int = 64
    outputs: int = 16
    tokens: int = 4096
    requests: int = 64
    seconds: float = 120.0


@dataclasses.dataclass(frozen=True)
class Generation:
    """The prompts and settings of a request.

    Attributes:
      prompts: texts, or lists of ids.
      settings: settings of the inference that differ from the configuration's.
      controls: penalties, constraints and stop texts besides the configuration's.
      num_outputs: number of outputs of each prompt.
      seed: seed of the draws; random if the request has none.
      with_log_probs: whether to return the log-probability of each token.
      is_chat: whether prompts are conversations.
      streams: whether text is sent as it is decoded.
      streams_usage: whether the numbers of tokens follow it.
    """

    prompts: list[str] | list[list[int]]
    settings: dict[str, Any]
    controls: Controls
    num_outputs: int
    seed: int
    with_log_probs: bool
    streams: bool
    streams_usage: bool
    is_chat: bool = False


def read_generation(
    fields: Fields, prompts: list[str] | list[list[int]], limits: Limits, *, log_probs: bool
) -> Generation:
    """Reads all fields but the prompts; RequestError for a bad one."""
    fields.refuse("logit_bias", unless=[{}])
    settings = {name: fields.number(name, allowed) for name, allowed in _SETTINGS.items()}
    allowed = Range(1, limits.tokens, whole=True)
    settings["decode_length"] = fields.number("max_tokens", allowed)
    penalties = {name: fields.number(name, _PENALTY) for name in _PENALTIES}
    processors = tuple(_PENALTIES[name](float(x)) for name, x in penalties.items() if x)
    controls = Controls(processors, constraints=_read_constraints(fields), stop=_read_stops(fields))
    outputs = fields.number("n", Range(1, limits.outputs, whole=True)) or 1
    if (settings["beam_size"] or 1) > limits.outputs:
        raise fields.error("beam_size", f"must be at most {limits.outputs}")
    seed = fields.number("seed", _SEEDS)
    stream_options = fields.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise fields.error("stream_options", "must be an object")
    streams = fields.flag("stream")
    for name in _IGNORED:
        fields.get(name)
    fields.check_names()
    return Generation(
        prompts,
        {name: value for name, value in settings.items() if value is not None},
        controls,
        outputs,
        secrets.randbits(31) if seed is None else seed,
        log_probs,
        streams,
        bool((stream_options or {}).get("include_usage")),
    )


def read_texts(fields: Fields, name: str, limits: Limits) -> list[str] | list[list[int]]:
    """Reads a field with a text, ids, a list of texts or a list of lists of ids."""
    value = fields.get(name)
    if value is None:
        raise RequestError(f'the request has no "{name}"', field=name)
    is_list = isinstance(value, list)
    if is_list and value and all(map(_is_id, value)):
        return [value]
    if is_list and value and all(isinstance(x, list) and x and all(map(_is_id, x)) for x in value):
        fields.check_count(name, value, limits.prompts)
        return list(value)
    return fields.texts(name, limits.prompts)


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
