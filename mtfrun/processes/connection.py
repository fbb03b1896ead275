"""Addresses, and connections between two processes: heartbeats and messages of one line of JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import ipaddress
import json
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape

_ADDRESS = re.compile(r"\[?(.+?)\]?:(\d{1,5})")
_PAUSE_SECS = 0.1
_ATTEMPT_SECS = 5.0
_NAME_SECS = 5.0

Message: TypeAlias = dict[str, Any]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds that processes wait for each other.

    `join_secs`: for all processes of a run. `heartbeat_secs`: between heartbeats. `silence_secs`:
    without a heartbeat, until a process counts as lost; longer than native calls that hold Python's
    lock. `failure_secs`: from an error of one process until all have the same error.
    """

    join_secs: float = 300.0
    heartbeat_secs: float = 1.0
    silence_secs: float = 20.0
    failure_secs: float = 5.0

    @property
    def consequence_secs(self) -> float:
        """How long an error waits for a loss of another process that may have caused it."""
        return self.silence_secs + self.failure_secs


class Kind(enum.StrEnum):
    """What a message is about: two from a worker, three from the coordinator, then from both."""

    HELLO, FAILED = "hello", "failed"
    WELCOME, REFUSED, END = "welcome", "refused", "end"
    ALIVE, VALUE, BYE = "alive", "value", "bye"


# The types of the fields; True is not an integer here.
_FIELDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    Kind.HELLO: {"index": (int,), "count": (int,), "place": (str,), "token": (str,)},
    Kind.FAILED: {"line": (str,), "may_follow": (bool,)},
    Kind.WELCOME: {"place": (str,)},
    Kind.REFUSED: {"line": (str,)},
    Kind.END: {"index": (int, type(None)), "cause": (str, type(None))},
    Kind.ALIVE: {},
    Kind.VALUE: {"name": (str,), "value": (object,)},
    Kind.BYE: {},
}

# The longest line, so that an untrusted connection cannot fill the memory.
_MOST_BYTES = 1 << 28
# A long line may take longer than the timeout of a heartbeat if it arrives at this rate.
_SLOWEST_BYTES_PER_SEC = 1e5
_CHUNK_BYTES = 1 << 16


class ProcessesError(InputError):
    """The processes of a run cannot be brought together, or one of them has failed; one line."""


class MalformedError(ValueError):
    """A line from another process is not a message."""


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
            raise InputError(f"--coordinator={text} is not a host:port, such as node0:8476")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self) -> socket.socket:
        """Listens on all addresses, or on the loopback if it is named.

        Inside the machine, the name of the host may stand for another address.
        """
        self._await_name(_NAME_SECS)
        try:
            if is_loopback(self.host):
                family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
                return socket.create_server((self.host, self.port), family=family)
            is_dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if is_dual else socket.AF_INET
            return socket.create_server(("", self.port), family=family, dualstack_ipv6=is_dual)
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen at --coordinator={self}: {error.strerror or error}; "
                "choose another port"
            ) from None

    def connect(self, secs: float) -> socket.socket:
        self._await_name(secs)
        try:
            return _retry(lambda: socket.create_connection(self, min(_ATTEMPT_SECS, secs)), secs)
        except OSError as error:
            raise ProcessesError(
                f"process 0 has not come: nothing answers at --coordinator={self} within {secs:g} s"
                f" ({error.strerror or error}); start process 0 there"
            ) from None

    def _await_name(self, secs: float) -> None:
        """The name may not resolve at first: the host may have just started."""
        try:
            _retry(lambda: socket.getaddrinfo(self.host, self.port), min(secs, _NAME_SECS))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "no such name"
            raise InputError(
                f"--coordinator={self}: the host is unknown here ({reason}); check its name, or "
                "give its address"
            ) from None


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry(function: Callable[[], _T], secs: float) -> _T:
    limit = time.monotonic() + secs
    while True:
        try:
            return function()
        except (OSError, UnicodeError):
            if time.monotonic() + _PAUSE_SECS > limit:
                raise
        time.sleep(_PAUSE_SECS)


def decode(line: bytes) -> Message:
    message: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line)
    kind = message.get("kind") if isinstance(message, dict) else None
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None or message.keys() != {"kind", *fields}:
        raise MalformedError("what is not a message")
    for name, types in fields.items():
        value = message[name]
        if object not in types and type(value) not in types:
            raise MalformedError(f"a message {kind!r}, in which {name} has another type")
        if isinstance(value, str) and kind != Kind.VALUE:
            message[name] = escape(value)
    return dict(message)


class Connection:
    """Sends messages to another process and receives messages from it.

    Values wait for `receive_value`; all other messages are passed on at once.
    """

    def __init__(self, connected: socket.socket, timeouts: Timeouts):
        with contextlib.suppress(OSError):  # it may have ended
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(timeouts.silence_secs)
        self._socket = connected
        self._incoming = connected.dup()  # has separate timeouts
        self._unread = bytearray()
        self._timeouts = timeouts
        self._sending = threading.Lock()
        self._values: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._is_started = False
        self._over = threading.Event()  # no more messages are expected

    @property
    def local_host(self) -> str:
        """The address of this machine on the way to the other process."""
        return str(self._socket.getsockname()[0])

    def start(self, on_message: Callable[[Message], None], on_end: Callable[[str], None]) -> None:
        """Two threads send heartbeats and receive; one of them calls the functions.

        `on_message` gets all messages but values, `on_end` the cause if the connection ends by
        itself.
        """

        def send_heartbeats() -> None:
            while not self._over.wait(self._timeouts.heartbeat_secs):
                self.send(Kind.ALIVE)

        self._is_started = True
        receive = functools.partial(self._receive_all, on_message, on_end)
        for target in (send_heartbeats, receive):
            threading.Thread(target=target, daemon=True, name="processes").start()

    def send(self, kind: Kind, **fields: Any) -> None:
        """The receiving thread, not this method, reports a broken connection."""
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        with contextlib.suppress(OSError), self._sending:
            self._socket.sendall(line)

    def receive_value(self, secs: float | None = None) -> tuple[str, Any]:
        """Returns the name and the value of the next `Kind.VALUE`."""
        try:
            message = self._values.get(timeout=secs)
        except queue.Empty:
            raise TimeoutError from None
        return message["name"], message["value"]

    def receive(self, secs: float, most_bytes: int = _MOST_BYTES) -> Message:
        start, searched = time.monotonic(), 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > most_bytes:
                raise MalformedError(f"a message of more than {most_bytes} bytes")
            remaining = start + secs + searched / _SLOWEST_BYTES_PER_SEC - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._incoming.settimeout(remaining)
            chunk = self._incoming.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError
            self._unread += chunk
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return decode(line)

    def close(self) -> None:
        """The other side should close at about the same time."""
        self.send(Kind.BYE)
        self.finish()

    def finish(self) -> None:
        """Closes after the other side: closing with unread data would lose its last messages."""
        if self._is_started:
            self._over.wait(self._timeouts.failure_secs)
        else:
            limit = time.monotonic() + self._timeouts.failure_secs
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
                while (remaining := limit - time.monotonic()) > 0:
                    self._incoming.settimeout(remaining)
                    if not self._incoming.recv(_CHUNK_BYTES):
                        break
        self.drop()

    def wait(self, secs: float) -> None:
        self._over.wait(secs)

    def drop(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if not self._is_started:  # else the receiving thread closes it
            self._incoming.close()

    def _receive_all(
        self, on_message: Callable[[Message], None], on_end: Callable[[str], None]
    ) -> None:
        with self._incoming:
            try:
                while (message := self.receive(self._timeouts.silence_secs))["kind"] != Kind.BYE:
                    if message["kind"] == Kind.VALUE:
                        self._values.put(message)
                    elif message["kind"] != Kind.ALIVE:
                        on_message(message)
                self._over.set()
                return
            except TimeoutError:
                what = f"has sent no heartbeat for {self._timeouts.silence_secs:g} s"
            except MalformedError as error:
                what = f"has sent {error}"
            except OSError:
                what = "has ended without a message: it was killed, or it crashed"
            if not self._over.is_set():
                self._over.set()
                on_end(what)
