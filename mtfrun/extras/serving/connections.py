"""Limits of connections: their number, and the time of idle clients."""

from __future__ import annotations

import asyncio
import collections
import logging
import resource
import time
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mtfrun.display import progress

_CHECK_SECS = 1.0
_LOG_SECS = 60.0
# Connections that wait to be accepted.
_BACKLOG = 128
_GRACE_SECS = 5

_HEAD, _BODY = "without a whole head", "without a whole body"
_READER = "of clients that read nothing"
# Open connections; fewer if the process may open few files.
_MOST = 512
_LONGEST_SECS = {_HEAD: 10.0, _BODY: 20.0, _READER: 10.0}


class Connections:
    """The open connections of a server.

    When there are too many, the oldest is dropped that waits for its client: first those that have
    had no answer yet, so that clients that send nothing do not keep others out. One line a minute
    says how many were dropped.
    """

    def __init__(self) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _MOST
        if files != resource.RLIM_INFINITY:
            self._most = min(self._most, files // 2)
        self._open: set[LimitedProtocol] = set()
        self._dropped = collections.Counter[str]()
        self._next_line = 0.0
        self._is_checked = False

    def add(self, connection: LimitedProtocol) -> None:
        if len(self._open) >= self._most:
            waiting = [other for other in self._open if other.longest_secs is not None]
            victim = min(waiting, key=LimitedProtocol.rank, default=connection)
            self.drop(victim, f"beyond {self._most:,}")
        self._open.add(connection)
        self._check_later(connection.loop)

    def close(self, connection: LimitedProtocol) -> None:
        self._open.discard(connection)

    def drop(self, connection: LimitedProtocol, reason: str) -> None:
        self.count(reason)
        self.close(connection)
        connection.transport.abort()

    def count(self, reason: str) -> None:
        self._dropped[reason] += 1

    def _check_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_checked:
            self._is_checked = True
            loop.call_later(_CHECK_SECS, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_checked = False
        now = time.monotonic()
        for connection in list(self._open):
            longest = connection.longest_secs
            if longest is not None and now - connection.since > longest:
                self.drop(connection, f"{connection.waits_for} in {longest:g} s")
        if self._dropped and now >= self._next_line:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in self._dropped.most_common())
            progress.note(f"connections dropped: {reasons}")
            self._dropped.clear()
            self._next_line = now + _LOG_SECS
        if self._open or self._dropped:
            self._check_later(loop)


class LimitedProtocol(H11Protocol):
    """One of `open_connections`, an attribute of a subclass.

    Attributes:
      waits_for: the missing part; None while a request is answered.
      since: time of the last change of it.
    """

    open_connections: Connections
    waits_for: str | None
    since: float

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._has_been_answered = self._is_stalled = False

    @property
    def longest_secs(self) -> float | None:
        """The longest time for which it may wait; None while a request is answered."""
        self._update()
        return None if self.waits_for is None else _LONGEST_SECS[self.waits_for]

    def rank(self) -> tuple[bool, bool, float]:
        """Returns a value that is least for the connection to drop first."""
        is_used = self._has_been_answered and not self.transport.is_closing()
        return is_used, self.waits_for != _HEAD, self.since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits_for, self.since = _HEAD, time.monotonic()
        self.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_connections.close(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._update()
            # Pipelined requests would wait here, any number of them.
            if self.waits_for is None and self.conn.trailing_data[0]:
                self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._has_been_answered = True
        self._update()
        self.since = time.monotonic()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_stalled = True
        self._update()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_stalled = False
        self._update()

    def send_400_response(self, msg: str) -> None:
        self.open_connections.count("without a request of HTTP")
        if self.cycle is not None and not self.cycle.response_complete:  # its body is wrong
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun
            self.transport.close()

    def _update(self) -> None:
        state = self.conn.their_state
        waits_for = _HEAD if state is h11.IDLE else _BODY if state is h11.SEND_BODY else None
        if self._is_stalled or self.transport.is_closing():
            waits_for = _READER
        if waits_for != self.waits_for:
            self.waits_for, self.since = waits_for, time.monotonic()


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    protocol = type("_Protocol", (LimitedProtocol,), {"open_connections": Connections()})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        # Warnings are about single requests.
        log_level=logging.ERROR,
        access_log=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_SECS,
    )
