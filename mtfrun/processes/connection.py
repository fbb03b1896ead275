"""A connection between two processes: heartbeats, and messages of one line of JSON."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mtfrun.processes.heartbeat import Timeouts
from mtfrun.untrusted import escaped

Message: TypeAlias = dict[str, Any]
KIND = "kind"

# Kinds of messages that a worker sends.
HELLO, FAILED = "hello", "failed"
# Kinds of messages that the coordinator sends.
WELCOME, REFUSED, END = "welcome", "refused", "end"
# Kinds of messages that both send.
ALIVE, VALUE, BYE = "alive", "value", "bye"

# The types of the fields; True is not an integer here.
_FIELDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    HELLO: {"index": (int,), "count": (int,), "place": (str,), "token": (str,)},
    FAILED: {"line": (str,), "may_follow": (bool,)},
    WELCOME: {"place": (str,)},
    REFUSED: {"line": (str,)},
    END: {"index": (int, type(None)), "cause": (str, type(None))},
    ALIVE: {},
    VALUE: {"name": (str,), "value": (object,)},
    BYE: {},
}

# The longest line, so that an untrusted connection cannot fill the memory.
_MOST_BYTES = 1 << 28
# A long line may take longer than the timeout of a heartbeat if it arrives at this rate.
_SLOWEST_BYTES_PER_SEC = 1e5
_CHUNK_BYTES = 1 << 16


class MalformedError(ValueError):
    """A line from another process is not a message."""


def encode(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Message:
    try:
        message: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedError("what is not JSON") from None
    if not isinstance(message, dict):
        raise MalformedError("what is not an object")
    kind = message.get(KIND)
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise MalformedError("a message of an unknown kind")
    if message.keys() != {KIND, *fields}:
        raise MalformedError(f"a message {kind!r} with other fields")
    for name, types in fields.items():
        value = message[name]
        if object not in types and type(value) not in types:
            raise MalformedError(f"a message {kind!r} whose {name} has another type")
        if isinstance(value, str):  # the value of VALUE is not changed
            message[name] = value if kind == VALUE else escaped(value)
    return message


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
        self._over = threading.Event()  # nothing more is expected from the other side

    @property
    def local_host(self) -> str:
        """The address of this machine on the way to the other process."""
        return str(self._socket.getsockname()[0])

    def start(self, on_message: Callable[[Message], None], on_end: Callable[[str], None]) -> None:
        """Two threads send heartbeats and receive; one of them calls the functions.

        `on_message` gets all messages but values, `on_end` the cause if the connection ends by
        itself.
        """

        def receive() -> None:
            with self._incoming:
                self._receive_all(on_message, on_end)

        self._is_started = True
        for target in (self._send_heartbeats, receive):
            threading.Thread(target=target, daemon=True, name="processes").start()

    def send(self, message: Message) -> None:
        """The receiving thread, not this method, reports a broken connection."""
        line = encode(message)
        with contextlib.suppress(OSError), self._sending:
            self._socket.sendall(line)

    def send_value(self, name: str, value: Any) -> None:
        self.send({KIND: VALUE, "name": name, "value": value})

    def receive_value(self, secs: float | None = None) -> tuple[str, Any]:
        """Returns the name and the value of the next `send_value`."""
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
        self.send({KIND: BYE})
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

    def _send_heartbeats(self) -> None:
        while not self._over.wait(self._timeouts.heartbeat_secs):
            self.send({KIND: ALIVE})

    def _receive_all(
        self, on_message: Callable[[Message], None], on_end: Callable[[str], None]
    ) -> None:
        while True:
            try:
                message = self.receive(self._timeouts.silence_secs)
            except TimeoutError:
                what = f"has sent no heartbeat for {self._timeouts.silence_secs:g} s"
                break
            except MalformedError as error:
                what = f"has sent {error}"
                break
            except OSError:
                what = "has ended without a message: it was killed, or it crashed"
                break
            kind = message[KIND]
            if kind == BYE:
                self._over.set()
                return
            if kind == VALUE:
                self._values.put(message)
            elif kind != ALIVE:
                on_message(message)
        if not self._over.is_set():
            self._over.set()
            on_end(what)
