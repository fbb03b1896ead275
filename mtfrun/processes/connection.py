"""A connection between two processes: messages and heartbeats."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mtfrun.processes.messages import (
    ALIVE,
    BYE,
    KIND,
    VALUE,
    MalformedError,
    Message,
    decode,
    encode,
)
from mtfrun.processes.timeouts import Timeouts

# The longest line, so that an untrusted connection cannot fill the memory.
_MOST_BYTES = 1 << 28
# A long line may take longer than the timeout of a heartbeat if it arrives at this rate.
_SLOWEST_BYTES_PER_SEC = 1e5
_CHUNK_BYTES = 1 << 16


class Connection:
    """Sends messages to another process and receives messages from it.

    It has two threads, see `start`: one sends heartbeats, the other receives. Values wait
    for `receive_value`; all other messages are passed on at once.

    Args:
      connected: a socket; it is closed with the connection.
      timeouts: of the run.
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
        """Starts the threads.

        Args:
          on_message: called in a thread with every message that is not a value.
          on_end: called in that thread with what has happened when the connection ends without
            `close`.
        """

        def receive() -> None:
            with self._incoming:
                self._receive_all(on_message, on_end)

        self._is_started = True
        for target in (self._send_signs_of_life, receive):
            threading.Thread(target=target, daemon=True, name="processes").start()

    def send(self, message: Message) -> None:
        """Sends a message. A broken connection is reported by the receiving thread, not here."""
        line = encode(message)
        with contextlib.suppress(OSError), self._sending:
            self._socket.sendall(line)

    def send_value(self, name: str, value: Any) -> None:
        """Sends a value for `receive_value`; `name` says what it is."""
        self.send({KIND: VALUE, "name": name, "value": value})

    def receive_value(self, secs: float | None = None) -> tuple[str, Any]:
        """Returns the name and the value of the next `send_value`.

        Raises:
          TimeoutError: nothing arrived in time. With None there is no limit.
        """
        try:
            message = self._values.get(timeout=secs)
        except queue.Empty:
            raise TimeoutError from None
        return message["name"], message["value"]

    def receive(self, secs: float, most_bytes: int = _MOST_BYTES) -> Message:
        """Returns the next message.

        Args:
          secs: for the whole message; a long one may take longer, see `_SLOWEST_BYTES_PER_SEC`.
          most_bytes: the largest size of the message.

        Raises:
          TimeoutError: it has not arrived in time.
          OSError: the connection has ended.
          MalformedError: the line is not a message.
        """
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
        """Closes the connection; the other side should do the same at about the same time."""
        self.send({KIND: BYE})
        self.finish()

    def finish(self) -> None:
        """Waits until the other side has read the last message and closed, then closes too.

        Closing with unread data resets the connection, and the other side loses messages that it
        has not read yet.
        """
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
        """Waits at most some seconds until the other side has closed the connection."""
        self._over.wait(secs)

    def drop(self) -> None:
        """Closes the connection without a word."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if not self._is_started:  # else the receiving thread closes it
            self._incoming.close()

    def _send_signs_of_life(self) -> None:
        while not self._over.wait(self._timeouts.heartbeat_secs):
            self.send({KIND: ALIVE})

    def _receive_all(
        self, on_message: Callable[[Message], None], on_end: Callable[[str], None]
    ) -> None:
        while True:
            try:
                message = self.receive(self._timeouts.silence_secs)
            except TimeoutError:
                what = f"has given no sign of life for {self._timeouts.silence_secs:g} s"
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
