"""Fields of requests, and what is around their handlers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mtfrun.decoding import Controls
from mtfrun.decoding.controls.processors import FrequencyPenalty
from mtfrun.extras.serving.fields import Fields, RequestError
from mtfrun.extras.serving.generation import Generation, Limits, read_chat, read_completion
from mtfrun.extras.serving.middleware import Gate, Metrics

LIMITS = Limits(tokens=100)


def _read(body: Any) -> Generation:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_completion(Fields(content), LIMITS)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON: its values are too deep"),
        (b'{"prompt": "a", "prompt": "b"}', "twice"),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is no number"),
        (b"[]", "the body must be a JSON object"),
        ({}, 'the request has no "prompt"'),
        ({"prompt": 3}, "prompt is 3: it must be a text or a list of texts"),
        ({"prompt": []}, "prompt has 0 entries: it must have 1 to 64"),
        ({"prompt": ["a", 3]}, "it must be a text or a list of texts"),
        ({"prompt": [[1], []]}, "it must be a text or a list of texts"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens is 0: it must be an integer of at least 1"),
        ({"prompt": "a", "max_tokens": 101}, "at most 100"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens is true"),
        ({"prompt": "a", "max_tokens": 10**400}, "max_tokens is 1000"),
        ({"prompt": "a", "temperature": -1}, "temperature is -1: it must be at least 0"),
        ({"prompt": "a", "n": 17}, "n is 17"),
        ({"prompt": "a", "beam_size": 17}, "beam_size is 17: it must be at most 16"),
        ({"prompt": "a", "stream": "yes"}, 'stream is "yes": it must be true or false'),
        ({"prompt": "a", "stream_options": 1}, "stream_options is 1: it must be an object"),
        ({"prompt": "a", "presence_penalty": 3}, "it must be at least -2 and at most 2"),
        ({"prompt": "a", "stop": [""]}, "it must have texts of 1 to 100 characters"),
        ({"prompt": "a", "stop": list("abcde")}, "stop has 5 entries"),
        ({"prompt": "a", "seed": 2**64}, "seed is"),
        ({"prompt": "a", "logprobs": 5}, "logprobs is 5"),
        ({"prompt": "a", "guided_regex": 1}, "guided_regex is 1: it must be a text"),
        ({"prompt": "a", "response_format": "json"}, 'response_format is "json": it must be'),
        ({"prompt": "a", "response_format": {"type": "json_schema"}}, "it must be"),
        ({"prompt": "a", "response_format": {}, "guided_regex": "a"}, "cannot be together"),
        ({"prompt": "a", "logit_bias": {"5": 1}}, "it is not supported"),
        ({"prompt": "a", "echo": True}, "echo is true: it is not supported"),
        ({"prompt": "a", "temprature": 1}, "did you mean 'temperature'?"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(body: Any, problem: str) -> None:
    with pytest.raises(RequestError) as error:
        _read(body)
    assert problem in error.value.message and error.value.status == 400


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "messages must be a list"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], 'whose "content" is not text'),
        (["Hi"], 'without a text "role"'),
    ],
)
def test_bad_messages_are_refused(messages: list[Any], problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        read_chat(Fields(json.dumps({"messages": messages}).encode()), LIMITS)


def test_what_a_request_leaves_out_is_the_configuration_s() -> None:
    generation = _read({"prompt": ["a", "b"], "max_tokens": 5, "user": "me", "logit_bias": {}})
    assert dict(generation.key.settings) == {"decode_length": 5, "num_outputs": 1}
    assert (generation.key.controls, generation.stop, generation.streams) == (Controls(), (), False)


def test_prompts_are_texts_or_ids_and_penalties_are_processors() -> None:
    assert _read({"prompt": [1, 2]}).prompts == [[1, 2]]
    assert _read({"prompt": [[1], [2, 3]]}).prompts == [[1], [2, 3]]
    body = {"prompt": "a", "frequency_penalty": 1, "presence_penalty": 0}
    assert _read(body).key.controls.processors == (FrequencyPenalty(1.0),)


def _client(token: str | None = None, limits: Limits | None = None, **settings: Any) -> TestClient:
    async def wait(request: Request) -> Response:
        await asyncio.sleep(float((await request.body()) or 0))
        return PlainTextResponse("answered")

    async def parts(_: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await asyncio.sleep(60)

        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(
        routes=[Route(p, wait, methods=["GET", "POST"]) for p in ("/", "/health", "/v1/x")]
        + [Route("/events", parts, methods=["POST"])],
        middleware=[Middleware(Gate, token, limits or Limits(), Metrics(engine=None))],
    )
    return TestClient(app, **{"base_url": "http://127.0.0.1:8000", **settings})


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/v1/x", None, 401),
        ("/v1/x", "Bearer wrong", 401),
        ("/v1/x", "Bearer secret", 200),
        ("/health", None, 200),
        ("/", None, 200),
    ],
)
def test_a_token_is_needed_where_one_is_set(path: str, header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header}
    client = _client("secret", base_url="http://example.com")
    assert client.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("url", "origin", "status"),
    [
        ("http://127.0.0.1:8000/v1/x", None, 200),
        ("http://localhost/v1/x", "http://localhost:8000", 200),
        ("http://evil.example/v1/x", None, 403),
        ("http://127.0.0.1/v1/x", "http://evil.example", 403),
        ("http://127.0.0.1/v1/x", "null", 403),
    ],
)
def test_without_a_token_pages_of_other_sites_are_refused(
    url: str, origin: str | None, status: int
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert _client().get(url, headers=headers).status_code == status


def test_a_request_that_takes_too_long_is_refused() -> None:
    response = _client(limits=Limits(seconds=0.05)).post("/v1/x", content="60")
    assert response.status_code == 503
    assert "longer than 0.05 seconds" in response.json()["error"]["message"]


def test_a_stream_that_takes_too_long_ends_with_the_reason() -> None:
    lines = _client(limits=Limits(seconds=0.05)).post("/events").text.split("\n\n")
    assert lines[0] == "data: 1"
    assert "longer than" in json.loads(lines[1].removeprefix("data: "))["error"]["message"]


def test_requests_beyond_the_largest_number_are_refused_at_once() -> None:
    async def main() -> list[int]:
        statuses: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.05)
            await PlainTextResponse("answered")(scope, receive, send)

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        gate = Gate(app, None, Limits(requests=2), Metrics(engine=None))
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": headers}
        await asyncio.gather(*(gate(scope, receive, send) for _ in range(3)))
        await gate(scope, receive, send)
        return statuses

    assert asyncio.run(main()) == [503, 200, 200, 200]
