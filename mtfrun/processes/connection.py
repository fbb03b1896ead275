"""A connection between two processes: JSON messages, one a line, and signs of life."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from mtfrun.processes.timeouts import Timeouts

Message: TypeAlias = dict[str, Any]
KIND = "kind"

# Kinds of messages that only this file knows.
_ALIVE, _VALUE, _BYE = "alive", "value", "bye"
# Of a line, so that a stranger's connection cannot fill the memory.
_MOST_BYTES = 1 << 28


class Connection:
    """Sends messages to another process and receives its own.

    Two threads belong to it, see `start`: one sends signs of life, the other receives. Values wait
    for `receive_value`; all other messages are passed on at once.

    Args:
      connected: a socket; it is closed with the connection.
      timeouts: of the run.
    """

    def __init__(self, connected: socket.socket, timeouts: Timeouts):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(timeouts.silence_secs)
        self._socket = connected
        self._lines = connected.makefile("rb")
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
            with self._lines:
                self._receive_all(on_message, on_end)

        self._is_started = True
        for target in (self._send_signs_of_life, receive):
            threading.Thread(target=target, daemon=True, name="processes").start()

    def send(self, message: Message) -> None:
        """Sends a message. A broken connection is reported by the receiving thread, not here."""
        line = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError), self._sending:
            self._socket.sendall(line)

    def send_value(self, name: str, value: Any) -> None:
        """Sends a value for `receive_value`; `name` says what it is."""
        self.send({KIND: _VALUE, "name": name, "value": value})

    def receive_value(self) -> tuple[str, Any]:
        """Returns the name and the value of the next `send_value`; waits for it without limit."""
        message = self._values.get()
        return message["name"], message["value"]

    def receive(self) -> Message:
        """Returns the next message, before `start`.

        Raises:
          OSError: the connection has ended, or nothing came in time.
          ValueError: what came is no JSON.
        """
        line = self._lines.readline(_MOST_BYTES)
        if not line.endswith(b"\n"):
            raise ConnectionResetError("its connection was closed")
        message = json.loads(line)
        if not isinstance(message, dict) or KIND not in message:
            raise ConnectionAbortedError("it sent something else than a message")
        return message

    def close(self) -> None:
        """Closes the connection; the other side should do the same at about the same time."""
        self.send({KIND: _BYE})
        self._over.wait(self._timeouts.failure_secs)  # its own bye: no side resets the connection
        self.drop()

    def drop(self) -> None:
        """Closes the connection without a word."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if not self._is_started:  # else the receiving thread closes them
            self._lines.close()

    def _send_signs_of_life(self) -> None:
        while not self._over.wait(self._timeouts.heartbeat_secs):
            self.send({KIND: _ALIVE})

    def _receive_all(
        self, on_message: Callable[[Message], None], on_end: Callable[[str], None]
    ) -> None:
        while True:
            try:
                message = self.receive()
            except TimeoutError:
                what = f"has given no sign of life for {self._timeouts.silence_secs:g} s"
                break
            except (OSError, ValueError):
                what = "has ended without a message: it was killed, or it crashed"
                break
            kind = message[KIND]
            if kind == _BYE:
                self._over.set()
                return
            if kind == _VALUE:
                self._values.put(message)
            elif kind != _ALIVE:
                on_message(message)
        if not self._over.is_set():
            on_end(what)
