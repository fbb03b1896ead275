"""Connections of another process are cut, and nothing else that it has open."""

from __future__ import annotations

import subprocess
import sys

from mtfrun.tools.chaos.connections import cut_connections

_PROGRAM = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
local, other = socket.socketpair()
print("connected", flush=True)
print(client.recv(1), accepted.recv(1), flush=True)
other.send(b"x")
client = socket.create_connection(server.getsockname())
print(local.recv(1), client.fileno() > 0, flush=True)
"""


def test_both_ends_see_the_end_of_a_connection() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        assert cut_connections(process.pid) == 2
        assert process.stdout.read().splitlines() == ["b'' b''", "b'x' True"]
    assert cut_connections(process.pid) == 0
