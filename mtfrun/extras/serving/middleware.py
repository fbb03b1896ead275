"""Around every request: access, limits of their number and time, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
import urllib.parse

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtfrun.extras.serving.completions import event
from mtfrun.extras.serving.engine import Engine
from mtfrun.extras.serving.fields import RequestError
from mtfrun.extras.serving.generation import Limits

# Paths that need no token.
_OPEN = ("/", "/health")
_HOSTS = ("127.0.0.1", "localhost", "::1")
# From one step of a small model to the longest answer.
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The counters of one server, which Prometheus reads at /metrics."""

    def __init__(self, engine: Engine | None):
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mtfrun_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mtfrun_request_seconds",
            "Seconds of requests that were answered",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter("mtfrun_prompt_tokens", "Tokens of prompts", registry=registry)
        self.output_tokens = Counter("mtfrun_output_tokens", "Tokens of outputs", registry=registry)
        self.running = Gauge("mtfrun_requests_running", "Requests in progress", registry=registry)
        if engine is not None:
            for name, help_text, rows in (
                ("active", "Rows in the shared batch", engine.by_place),
                ("waiting", "Rows that wait for a place", engine.waiting),
            ):
                gauge = Gauge(f"mtfrun_rows_{name}", help_text, registry=registry)
                gauge.set_function(rows.__len__)


class Gate:
    """Refuses requests, ends those that take too long, and counts all by path and status.

    With a token, requests without it are refused; without one, requests from pages of other sites,
    which can send them to this machine, also under a name that they own. POST requests beyond a
    number are refused. They count once their bodies are read: slow clients keep no request out.
    """

    def __init__(self, app: ASGIApp, token: str | None, limits: Limits, metrics: Metrics):
        self._app, self._token, self._limits, self._metrics = app, token, limits, metrics
        self._running = 0
        self._unread = 0  # bytes of bodies that are not whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499  # nginx's code of a client that has gone
        is_stream: bool | None = None  # until the answer begins

        async def watch(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status, headers = message["status"], Headers(raw=message["headers"])
                is_stream = headers.get("content-type", "").startswith("text/event-stream")
            await send(message)

        with self._metrics.running.track_inprogress():
            try:
                await self._answer(scope, receive, watch)
            except RequestError as error:
                if is_stream is None:
                    await error.response()(scope, receive, watch)
                elif is_stream:
                    # A client that reads nothing must not hold its place.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            body = event(error.body).encode()
                            await send({"type": "http.response.body", "body": body})
            except Exception:  # answered outside of this
                status = 500
                raise
            finally:
                # Other paths are the client's, of which there may be any number.
                path = scope["route"].path if "route" in scope else "other"
                self._metrics.requests.labels(path, str(status)).inc()
                if status == 200:
                    self._metrics.seconds.labels(path).observe(time.monotonic() - begin)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_access(scope["path"], Headers(scope=scope))
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await self._body(receive)
        if body is None:
            return
        if self._running >= self._limits.requests:
            problem = f"{self._running} requests are in progress, the most at a time: try again"
            raise RequestError(problem, 503)
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_whole() -> Message:
            return messages.pop() if messages else await receive()

        self._running += 1
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await self._app(scope, receive_whole, send)
        except TimeoutError:
            problem = f"it took longer than {seconds:g} seconds: ask for fewer tokens"
            raise RequestError(problem, 503) from None
        finally:
            self._running -= 1

    def _check_access(self, path: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._token is not None:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(token.strip().encode(), self._token.encode())
            if path not in _OPEN and not (scheme.lower() == "bearer" and is_right):
                problem = "the token is missing or wrong: Authorization: Bearer TOKEN"
                raise RequestError(problem, 401)
        elif _host_name(f"//{host}") not in _HOSTS:
            raise RequestError("the server answers this machine only: start it with a token", 403)
        elif origin is not None and _host_name(origin) not in _HOSTS:
            raise RequestError("requests of pages of other sites need a token", 403)

    async def _body(self, receive: Receive) -> bytes | None:
        """Returns None if the client goes away."""
        body = bytearray()
        most = self._limits.body_bytes
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                body += part
                self._unread += len(part)
                if len(body) > most:
                    raise RequestError(f"the body has more than {most:,} bytes", 413)
                if self._unread > most * self._limits.requests:
                    raise RequestError("too many requests send their bodies: try again", 503)
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            self._unread -= len(body)


def _host_name(url: str) -> str | None:
    try:
        return urllib.parse.urlsplit(url).hostname
    except ValueError:
        return None
