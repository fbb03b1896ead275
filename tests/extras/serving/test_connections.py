"""Connections that send or read nothing do not keep others out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mtfrun.display import progress
from mtfrun.extras.serving import connections
from mtfrun.extras.serving.connections import server_config
from mtfrun.extras.serving.generation import Limits
from mtfrun.extras.serving.middleware import Gate, Metrics
from tests.extras.serving.tiny_models import run_server

SECS = 0.4
HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
HALF_HEAD = HEAD.format("/x")
HALF_BODY = HEAD.format("/x") + "Content-Length: 9\r\n\r\nabc"
WITHOUT_TOKEN = HALF_BODY.replace("secret", "wrong")
UNREAD = HEAD.format("/endless") + "Content-Length: 0\r\n\r\n"
OTHERS = ["", HALF_HEAD, WITHOUT_TOKEN]
ONE = HEAD.format("/x") + "Content-Length: 0\r\n\r\n"


async def _answer(request: Request) -> Response:
    return PlainTextResponse(await request.body() or b"empty")


async def _endless(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)
            await asyncio.sleep(0)

    return StreamingResponse(parts())


async def _slow(_: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        for _ in range(6):
            await asyncio.sleep(SECS / 2)
            yield "part "

    return StreamingResponse(parts())


def _server(requests: int = 64) -> AbstractContextManager[int]:
    paths = {"/x": _answer, "/endless": _endless, "/slow": _slow}
    app = Starlette(
        routes=[Route(path, answer, methods=["POST"]) for path, answer in paths.items()],
        middleware=[
            Middleware(Gate, "secret", Limits(requests=requests, seconds=60), Metrics(engine=None))
        ],
    )
    return run_server(server_config(app))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(connections, "_FIRST_LINE_SECS", 0.05)
    monkeypatch.setattr(connections, "_MOST", 60)
    monkeypatch.setattr(progress, "note", lines.append)
    return lines


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        connections, "_LONGEST_SECS", dict.fromkeys(connections._LONGEST_SECS, SECS)
    )


def _connect(port: int, text: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    connection.sendall(text.encode())
    return connection


@contextlib.contextmanager
def _client(port: int) -> Iterator[Callable[..., bytes]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(path: str = "/x") -> bytes:
        connection.request("POST", path, b"body", {"Authorization": "Bearer secret"})
        return connection.getresponse().read()

    with contextlib.closing(connection):
        yield ask


@pytest.mark.parametrize(
    "text", [HALF_BODY, *(pytest.param(x, marks=pytest.mark.slow) for x in OTHERS)]
)
def test_requests_are_answered_beside_many_half_ones(lines: list[str], text: str) -> None:
    with _server(requests=4) as port, _client(port) as ask, contextlib.ExitStack() as stack:
        assert ask() == b"body"
        for _ in range(200):
            stack.enter_context(_connect(port, text))
        assert ask() == b"body"
        assert stack.enter_context(_client(port))() == b"body"
    # Connections without the token are closed, so they may never be too many.
    assert lines or text == WITHOUT_TOKEN
    assert len(lines) <= 1 and all("beyond 60" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HALF_HEAD, "whole head"),
        pytest.param(HALF_BODY, "whole body", marks=pytest.mark.slow),
        pytest.param(UNREAD, "read nothing", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("short_waits")
def test_a_client_that_sends_or_reads_slowly_is_dropped(
    lines: list[str], text: str, reason: str
) -> None:
    with _server() as port, _connect(port, text) as connection:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - start < 10:
                connection.sendall(b"a" if text != HALF_BODY else b"")
                time.sleep(SECS / 4)
                if lines:
                    break
    assert len(lines) == 1 and reason in lines[0]


@pytest.mark.usefixtures("short_waits")
def test_a_long_stream_is_not_cut_and_its_connection_stays(lines: list[str]) -> None:
    with _server() as port, _client(port) as ask:
        assert ask("/slow") == b"part " * 6
        assert ask() == b"body"
    assert not lines


def test_a_connection_with_more_requests_before_an_answer_is_closed(lines: list[str]) -> None:
    with _server() as port, _connect(port, ONE * 50) as connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("token", ["secret", "wrong"])
@pytest.mark.parametrize("path", ["/x", "/slow"])
def test_a_wrong_body_ends_the_request_without_a_traceback(
    path: str, token: str, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    head = HEAD.format(path).replace("secret", token) + "Transfer-Encoding: chunked\r\n\r\n"
    with _server() as port:
        with _connect(port, head + "-1\r\n") as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
        with _connect(port, head) as connection:
            time.sleep(SECS)
            connection.sendall(b"-1\r\n")
            while connection.recv(1000):
                pass
        with _client(port) as ask:
            assert ask() == b"body"
    assert not caplog.records
