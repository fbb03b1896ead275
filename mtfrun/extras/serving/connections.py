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

# From the first dropped connection to a line about it, and between two lines.
_FIRST_LINE_SECS, _LINE_SECS = 1.0, 60.0
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
        self._most = _MOST if files == resource.RLIM_INFINITY else min(_MOST, files // 2)
        self.open: set[LimitedProtocol] = set()
        self._dropped = collections.Counter[str]()
        self._next_line = 0.0

    def make_room(self, connection: LimitedProtocol) -> None:
        """Drops a connection, perhaps this new one, if there are too many."""
        if len(self.open) >= self._most:
            waiting = [other for other in self.open if other.waits_for is not None]
            victim = min(waiting, key=LimitedProtocol.rank, default=connection)
            victim.drop(f"beyond {self._most:,}")

    def count(self, reason: str) -> None:
        if not self._dropped:
            secs = max(_FIRST_LINE_SECS, self._next_line - time.monotonic())
            asyncio.get_running_loop().call_later(secs, self._report)
        self._dropped[reason] += 1

    def _report(self) -> None:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in self._dropped.most_common())
        progress.note(f"connections dropped: {reasons}")
        self._dropped.clear()
        self._next_line = time.monotonic() + _LINE_SECS


class LimitedProtocol(H11Protocol):
    """One of `connections_of_server`, an attribute of a subclass.

    Attributes:
      waits_for: the missing part; None while a request is answered.
    """

    connections_of_server: Connections

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.waits_for: str | None = None
        self._since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._has_been_answered = self._is_stalled = False

    def rank(self) -> tuple[bool, bool, float]:
        """Returns a value that is least for the connection to drop first."""
        is_used = self._has_been_answered and not self.transport.is_closing()
        return is_used, self.waits_for != _HEAD, self._since

    def drop(self, reason: str) -> None:
        self.connections_of_server.count(reason)
        self.connections_of_server.open.discard(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connections_of_server.make_room(self)
        self.connections_of_server.open.add(self)
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections_of_server.open.discard(self)
        self._wait_for(None)
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
        self._wait_for(None)
        self._update()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_stalled = True
        self._update()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_stalled = False
        self._update()

    def send_400_response(self, msg: str) -> None:
        self.connections_of_server.count("without a request of HTTP")
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
            self._wait_for(waits_for)

    def _wait_for(self, part: str | None) -> None:
        self.waits_for, self._since = part, time.monotonic()
        if self._deadline is not None:
            self._deadline.cancel()
        if part is not None:
            secs = _LONGEST_SECS[part]
            self._deadline = self.loop.call_later(secs, self.drop, f"{part} in {secs:g} s")


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    protocol = type("_Protocol", (LimitedProtocol,), {"connections_of_server": Connections()})
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
