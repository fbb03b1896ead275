"""Only processes that were started in a private network reach each other there."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mtfrun.errors import InputError
from mtfrun.processes import private_network
from tests.processes.threads import own_addresses

# Listens at all addresses, as TensorFlow's servers do, and lets a child connect.
_SERVER = """
import os, socket, subprocess, sys
from mtfrun.processes import private_network
ids = os.getuid(), os.getgid()
private_network.enter()
assert private_network.is_private() and ids == (os.getuid(), os.getgid())
server = socket.create_server(("", 0))
port = server.getsockname()[1]
connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
print(port, subprocess.run([sys.executable, "-c", connect]).returncode, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[tuple[int, int]]:
    """The port of a server in a private network, and the exit code of a child that connects."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        port, code = map(int, process.stdout.readline().split())
        yield port, code
        process.stdin.close()


def test_only_children_connect(server: tuple[int, int]) -> None:
    port, code = server
    assert code == 0
    for host in own_addresses():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=5)


def test_this_machine_is_not_a_private_network() -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert private_network.is_private() == (names == {"lo"})


def test_a_system_that_forbids_private_networks_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbid(flags: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(private_network, "_unshare", forbid)
    with pytest.raises(InputError, match=r"forbids network namespaces\).*--trusted_network"):
        private_network.enter()
