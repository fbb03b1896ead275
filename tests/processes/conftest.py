"""Closes the connections that a test leaves open."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mtfrun.processes import group
from mtfrun.processes.connection import Connection, Timeouts


@pytest.fixture(autouse=True)
def no_connection_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes what a lost process would close by its end, which a thread in its place does not."""
    made: list[Connection] = []

    def connection(connected: socket.socket, timeouts: Timeouts) -> Connection:
        made.append(Connection(connected, timeouts))
        return made[-1]

    # A thread that stands for a lost process closes no connection: nothing is to be waited for.
    monkeypatch.setattr(group, "_END_SECS", 0.05)
    monkeypatch.setattr(group, "Connection", connection)
    yield
    for one in made:
        one._over.set()  # so that none is told of the end of another
    for one in made:
        one.drop()
