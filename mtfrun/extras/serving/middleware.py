"""Around every request: access, limits of their number and time, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
import urllib.parse

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtfrun.extras.serving.completions import error_body, event
from mtfrun.extras.serving.fields import RequestError
from mtfrun.extras.serving.generation import Limits
from mtfrun.extras.serving.served_model import ServedModel

# Paths that need no token.
_OPEN = ("/", "/health")
_HOSTS = ("127.0.0.1", "localhost", "::1")
_RETRY_SECS = 1
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
# From one step of a small model to the longest answer.
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


def error_response(error: RequestError) -> JSONResponse:
    headers = {"Retry-After": str(_RETRY_SECS)} if error.status == 503 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
        # A connection that has had an answer is among the last to be dropped.
        headers["Connection"] = "close"
    return JSONResponse(error_body(error), error.status, headers)


class Access:
    """Refuses requests without the token; without a token, those of pages of other sites.

    Such a page can send requests to this machine, also under a name that it owns.
    """

    def __init__(self, app: ASGIApp, token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)) is not None:
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        if self._token is not None:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(token.strip().encode(), self._token.encode())
            if scope["path"] in _OPEN or (scheme.lower() == "bearer" and is_right):
                return None
            return RequestError("the token is missing or wrong: Authorization: Bearer TOKEN", 401)
        host, origin = headers.get("host", ""), headers.get("origin")
        if _host_name(f"//{host}") not in _HOSTS:
            return RequestError("the server answers this machine only: start it with a token", 403)
        if origin is not None and _host_name(origin) not in _HOSTS:
            return RequestError("requests of pages of other sites need a token", 403)
        return None


def _host_name(url: str) -> str | None:
    try:
        return urllib.parse.urlsplit(url).hostname
    except ValueError:
        return None


class Admission:
    """Refuses requests beyond a number, and ends those that take too long.

    They count once their bodies are read: slow clients keep no request out.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits
        self._running = 0
        self._unread = 0  # bytes of bodies that are not whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(receive)
            if body is None:
                return  # the client has gone
            if self._running >= self._limits.requests:
                problem = f"{self._running} requests are in progress, the most at a time: try again"
                raise RequestError(problem, 503)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_whole() -> Message:
            return messages.pop() if messages else await receive()

        self._running += 1
        try:
            await self._in_time(scope, receive_whole, send)
        finally:
            self._running -= 1

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

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type: str | None = None

        async def watch(message: Message) -> None:
            nonlocal content_type
            if message["type"] == "http.response.start":
                content_type = Headers(raw=message["headers"]).get("content-type", "")
            await send(message)

        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, receive, watch)
        except TimeoutError:
            problem = f"it took longer than {self._limits.seconds:g} seconds: ask for fewer tokens"
            error = RequestError(problem, 503)
            if content_type is None:
                await error_response(error)(scope, receive, send)
            elif content_type.startswith("text/event-stream"):
                # A client that reads nothing must not hold its place.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        body = event(error_body(error)).encode()
                        await send({"type": "http.response.body", "body": body})


class Metrics:
    """The counters of one server, which Prometheus reads at /metrics."""

    def __init__(self, model: ServedModel):
        self._registry = registry = CollectorRegistry()
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
        engine = model.engine
        if engine is not None:
            for name, help_text, value in (
                ("active", "Rows in the shared batch", lambda: engine.active),
                ("waiting", "Rows that wait for a place", lambda: engine.waiting),
            ):
                gauge = Gauge(f"mtfrun_rows_{name}", help_text, registry=registry)
                gauge.set_function(value)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)


class Counting:
    """Counts requests by path and status, and measures the time of those that are answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, begin = 499, time.monotonic()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.running.track_inprogress():
            try:
                await self._app(scope, receive, watch)
            except Exception:  # answered outside of this
                status = 500
                raise
            finally:
                # Other paths are the client's, of which there may be any number.
                route = scope.get("route")
                path = "other" if route is None else route.path
                self._metrics.requests.labels(path, str(status)).inc()
                if status == 200:
                    self._metrics.seconds.labels(path).observe(time.monotonic() - begin)
