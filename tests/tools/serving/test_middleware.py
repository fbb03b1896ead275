"""Who may ask, how many at a time, and for how long."""

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

from mtfrun.tools.serving.generation import Limits
from mtfrun.tools.serving.middleware import Access, Admission


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
        middleware=[Middleware(Access, token), Middleware(Admission, limits or Limits())],
    )
    return TestClient(app, **{"base_url": "http://127.0.0.1:8000", **settings})


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/v1/x", None, 401),
        ("/v1/x", "Bearer wrong", 401),
        ("/v1/x", "Basic secret", 401),
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
        ("http://[::1]:8000/v1/x", None, 200),
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

        admission = Admission(app, Limits(requests=2))
        scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": []}
        await asyncio.gather(*(admission(scope, receive, send) for _ in range(3)))
        await admission(scope, receive, send)
        return statuses

    assert asyncio.run(main()) == [503, 200, 200, 200]
