from __future__ import annotations

import ipaddress
import re
import socket
import time
from typing import NamedTuple

from mtfrun.errors import InputError
from mtfrun.processes.group import ProcessesError

_ADDRESS = re.compile(r"\[?(.+?)\]?:(\d{1,5})")
_PAUSE_SECS = 0.1
_ATTEMPT_SECS = 5.0
_NAME_SECS = 5.0


class Address(NamedTuple):
    """A host and a port.

    >>> str(Address.parse("node0:8476"))
    'node0:8476'
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parses a text such as "node0:8476" or "[::1]:8476"."""
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match[2]) < 1 << 16:
            raise InputError(
                f"--coordinator={text} is not a host:port, such as node0:8476: name the host of "
                "process 0 and a free port there"
            )
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self) -> socket.socket:
        """Listens on all addresses, or on the loopback if it is named.

        Inside the machine, the name of the host may stand for another address.
        """
        self._await_name(_NAME_SECS)
        try:
            if _is_loopback(self.host):
                family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
                return socket.create_server((self.host, self.port), family=family)
            if socket.has_dualstack_ipv6():
                return socket.create_server(
                    ("", self.port), family=socket.AF_INET6, dualstack_ipv6=True
                )
            return socket.create_server(("", self.port))
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen at --coordinator={self}: {error.strerror or error}; "
                "choose another port"
            ) from None

    def connect(self, secs: float) -> socket.socket:
        limit = time.monotonic() + secs
        self._await_name(secs)
        while True:
            try:
                secs_left = max(_PAUSE_SECS, limit - time.monotonic())
                return socket.create_connection(self, timeout=min(_ATTEMPT_SECS, secs_left))
            except OSError as error:
                if time.monotonic() + _PAUSE_SECS > limit:
                    raise ProcessesError(
                        f"process 0 has not come: nothing answers at --coordinator={self} within "
                        f"{secs:g} s ({error.strerror or error}); start process 0 there"
                    ) from None
            time.sleep(_PAUSE_SECS)

    def _await_name(self, secs: float) -> None:
        """The name may not resolve at first: the host may have just started."""
        limit = time.monotonic() + min(secs, _NAME_SECS)
        while True:
            try:
                socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
                return
            except (OSError, UnicodeError) as error:
                if time.monotonic() + _PAUSE_SECS > limit:
                    reason = getattr(error, "strerror", None) or "no such name"
                    raise InputError(
                        f"--coordinator={self}: the host is unknown here ({reason}); check its "
                        "name, or give its address"
                    ) from None
            time.sleep(_PAUSE_SECS)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
