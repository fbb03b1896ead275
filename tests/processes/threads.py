"""Several "processes" in threads of one, so that tests see what each of them does."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from collections.abc import Callable
from typing import Any

from mtfrun.processes.connection import Address, Timeouts
from mtfrun.processes.group import Coordinator, Group, Worker

QUICK = Timeouts(join_secs=5.0, heartbeat_secs=0.05, silence_secs=0.8, failure_secs=0.4)


def free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Address("127.0.0.1", server.getsockname()[1])


def own_addresses() -> set[str]:
    """Returns addresses of this machine, including the one that other machines reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing, but chooses an address
        return {"127.0.0.1", "127.0.0.2", probe.getsockname()[0]}


class Ends:
    """What the processes were told when they were ended by others.

    Attributes:
      causes: by the number of the process.
    """

    def __init__(self) -> None:
        self.causes: dict[int, str] = {}
        self._changed = threading.Condition()

    def of(self, index: int) -> Callable[[str], None]:
        def end(cause: str) -> None:
            with self._changed:
                assert index not in self.causes, "a process ends once"
                self.causes[index] = cause
                self._changed.notify_all()

        return end

    def wait(self, number: int, secs: float = 5.0) -> dict[int, str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.causes) >= number, secs), self.causes
            return self.causes


def in_all(groups: list[Group], function: Callable[[Group], Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(function, groups))


def join_all(count: int, ends: Ends, timeouts: Timeouts = QUICK) -> list[Group]:
    address = free_address()

    def join(index: int) -> Group:
        if index == 0:
            return Coordinator(count, address, timeouts, ends.of(0))
        return Worker(index, count, address, timeouts, ends.of(index))

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(join, range(count)))
