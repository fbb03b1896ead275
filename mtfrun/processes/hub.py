"""The first process of a run, to which all others are connected."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mtfrun.processes.address import Address
from mtfrun.processes.connection import KIND, Connection, Message
from mtfrun.processes.errors import DisagreementError, ProcessesError
from mtfrun.processes.group import Group, as_json, process_name, this_process
from mtfrun.processes.timeouts import Timeouts

# Kinds of messages of a spoke.
HELLO, FAILED = "hello", "failed"
# Kinds of messages of the hub.
WELCOME, REFUSED, END = "welcome", "refused", "end"

# Seconds for the first message of a connection.
_HELLO_SECS = 5.0


class _Failure(NamedTuple):
    """An error that a process has announced; see `Group.fail`."""

    line: str
    may_follow: bool


class Hub(Group):
    """The first process: it listens, and passes on what the others send.

    The constructor waits until all processes have come.

    Args:
      count: the number of processes, at least 2.
      address: where to listen.
      timeouts: of the run.
      end: called in a thread, once, when another process has failed or is lost; ends this process.

    Raises:
      ProcessesError: the address cannot be used, or a process has not come in time.
    """

    def __init__(
        self, count: int, address: Address, timeouts: Timeouts, end: Callable[[str], None]
    ):
        self.count, self.index, self.host = count, 0, address.host
        self._address = address
        self._timeouts = timeouts
        self._end = end
        self._places = {0: this_process()}
        self._spokes: dict[int, Connection] = {}
        self._failures: dict[int, _Failure] = {}
        self._state = threading.Lock()  # of the next two, and of `_failures`
        self._over = False
        self._verdict = threading.Event()
        with address.listen() as server:
            self._await_all(server)
        self._send_to_all({KIND: WELCOME, "place": self._places[0]})

    def gather(self, name: str, value: Any) -> list[Any]:
        """See the base class."""
        values = [as_json(value)]
        for index in range(1, self.count):
            asked, received = self._spokes[index].receive_value()
            if asked != name:
                raise DisagreementError(
                    f"{self._name(index)} is at {asked!r}, the first process at {name!r}"
                )
            values.append(received)
        for spoke in self._spokes.values():
            spoke.send_value(name, values)
        return values

    def fail(self, line: str, *, may_follow: bool) -> bool:
        """See the base class. The first process always prints its error."""
        self._note_failure(0, _Failure(line, may_follow))
        self._verdict.wait(self._timeouts.consequence_secs + self._timeouts.failure_secs)
        return True

    def leave(self) -> None:
        """See the base class."""
        self.gather("leave", None)
        with self._state:
            self._over = True
        for spoke in self._spokes.values():
            spoke.close()

    def _await_all(self, server: socket.socket) -> None:
        limit = time.monotonic() + self._timeouts.join_secs
        while len(self._spokes) < self.count - 1:
            server.settimeout(max(0.01, limit - time.monotonic()))
            try:
                connected, _ = server.accept()
            except TimeoutError:
                missing = [i for i in range(1, self.count) if i not in self._spokes]
                raise self._refusal(_have_not_come(missing, self.count, self._timeouts)) from None
            self._admit(connected)

    def _admit(self, connected: socket.socket) -> None:
        """Adds a process that has connected; a connection of something else is dropped."""
        connection = Connection(connected, self._timeouts)
        connected.settimeout(_HELLO_SECS)
        try:
            hello = connection.receive()
            index, count, place = hello["index"], hello["count"], hello["place"]
        except (OSError, ValueError, KeyError):
            connection.drop()
            return
        connected.settimeout(self._timeouts.silence_secs)
        refusal = self._reason_to_refuse(index, count)
        if refusal is not None:
            connection.send({KIND: REFUSED, "line": refusal})
            connection.drop()
            return
        self._places[index] = place
        self._spokes[index] = connection
        connection.start(
            lambda message: self._receive(index, message),
            lambda what: self._lose(index, what),
        )

    def _reason_to_refuse(self, index: int, count: int) -> str | None:
        if count != self.count:
            return (
                f"process {index} was started with --num_processes={count}, the first process with "
                f"{self.count}: start all with the same number"
            )
        if index in self._spokes:
            return (
                f"two processes were started with --process_id={index}, the other one is "
                f"{self._places[index]}: give each its own number"
            )
        return None

    def _refusal(self, line: str) -> ProcessesError:
        """Returns an error, after the processes that are there were told to raise it as well."""
        with self._state:
            self._over = True
        self._send_to_all({KIND: REFUSED, "line": line})
        for spoke in self._spokes.values():
            spoke.drop()
        return ProcessesError(line)

    def _receive(self, index: int, message: Message) -> None:
        if message[KIND] == FAILED:
            self._note_failure(index, _Failure(message["line"], message["may_follow"]))

    def _note_failure(self, index: int, failure: _Failure) -> None:
        timeouts = self._timeouts
        with self._state:
            self._failures[index] = failure
            if len(self._failures) == self.count:
                secs = 0.0
            else:
                secs = timeouts.consequence_secs if failure.may_follow else timeouts.failure_secs
        timer = threading.Timer(secs, self._decide)
        timer.daemon = True
        timer.start()

    def _decide(self) -> None:
        """Ends all processes because of the errors that some of them have announced."""
        with self._state:
            if self._over:
                return
            self._over = True
            failures = dict(self._failures)
        lines = {failure.line for failure in failures.values()}
        if len(failures) == self.count and len(lines) == 1:
            self._send_to_all({KIND: END, "cause": None, "index": None})
            self._verdict.set()
            return
        # An error of its own comes before those that may be its consequences.
        index = min(failures, key=lambda i: failures[i].may_follow)
        cause = f"{self._name(index)} failed: {failures[index].line}"
        self._send_to_all({KIND: END, "cause": cause, "index": index})
        if index == 0 or (0 in failures and not failures[0].may_follow):
            self._verdict.set()
        else:
            self._end(cause)

    def _lose(self, index: int, what: str) -> None:
        with self._state:
            if self._over:
                return
            self._over = True
        cause = f"{self._name(index)} {what}"
        self._send_to_all({KIND: END, "cause": cause, "index": index})
        self._end(cause)

    def _send_to_all(self, message: Message) -> None:
        for spoke in self._spokes.values():
            spoke.send(message)

    def _name(self, index: int) -> str:
        return process_name(index, self.count, self._places[index])


def _have_not_come(missing: list[int], count: int, timeouts: Timeouts) -> str:
    numbers = ", ".join(map(str, missing))
    subject = f"process {numbers}" if len(missing) == 1 else f"processes {numbers}"
    verb = "has" if len(missing) == 1 else "have"
    return (
        f"{subject} of {count} {verb} not come within {timeouts.join_secs:g} s: start "
        f"{count} processes, --process_id=0 to {count - 1}, with the same --coordinator, which all "
        "must reach"
    )
