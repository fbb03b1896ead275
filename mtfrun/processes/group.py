"""A process alone; the first process of a run, and those that connect to it."""

from __future__ import annotations

import hmac
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mtfrun.errors import InputError
from mtfrun.processes.connection import (
    Address,
    Connection,
    Kind,
    MalformedError,
    Message,
    ProcessesError,
    Timeouts,
)

TOKEN_VARIABLE = "MTFRUN_TOKEN"
"""The environment variable with the secret that the processes of a run share."""

# Limits for the first message of a connection.
_HELLO_SECS, _HELLO_BYTES = 5.0, 4096
# Connections that may be waiting for their first message at the same time.
_MOST_GREETINGS = 64
_POLL_SECS = 0.1
# Time for the other processes to read why they end.
_END_SECS = 0.5


class DisagreementError(ProcessesError):
    """Two processes have asked for different things at the same time: their programs differ."""


class Group:
    """The processes of a run, seen from process `index` (from 0), which all reach at `host`.

    This class is a process alone; the others override all methods.
    """

    count, index, host = 1, 0, "localhost"

    def gather(self, name: str, value: Any) -> list[Any]:
        """Collective: returns all JSON values in order; DisagreementError if names differ."""
        del name
        return [as_json(value)]

    def fail(self, line: str, *, may_follow: bool) -> bool:
        """Announces that this process ends with an error; all other processes end too.

        If the loss of another process may have caused it (`may_follow`), it first waits until such
        a loss would have been noticed, which ends this process. Returns whether to print the error:
        False if all processes have the same error, and this is not the first process.
        """
        del line, may_follow
        return True

    def leave(self) -> None:
        """Waits until all processes leave, so that leaving is not taken for a loss."""


def as_json(value: Any) -> Any:
    """Returns the value as another process receives it."""
    return json.loads(json.dumps(value))


def this_process() -> str:
    """Returns where this process is, for messages in other processes."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


def process_name(index: int, count: int, place: str) -> str:
    """Returns the name of a process in messages.

    >>> process_name(1, 4, "pid 300 on node7")
    'process 1 of 4 (pid 300 on node7)'
    """
    return f"process {index} of {count} ({place})"


class Worker(Group):
    """A process that is connected to the first; see `Coordinator` for the arguments.

    It raises InputError if the host name cannot be resolved, or the first process refuses it.
    """

    def __init__(
        self,
        index: int,
        count: int,
        address: Address,
        timeouts: Timeouts,
        end: Callable[[str], None],
        token: str = "",
    ):
        self.index, self.count = index, count
        self._timeouts = timeouts
        self._end = end
        self._place = f"at {address}"  # of the first process
        self._refusal: InputError | None = None
        self._joined = threading.Event()
        self._failure: bool | None = None  # whether the announced error may follow from another
        self._is_common = False  # whether all have announced the same error
        self._verdict = threading.Event()
        self._coordinator = Connection(address.connect(timeouts.join_secs), timeouts)
        self.host = self._coordinator.local_host
        self._coordinator.send(
            Kind.HELLO, index=index, count=count, place=this_process(), token=token
        )
        self._coordinator.start(self._receive, self._lose_coordinator)
        self._await_all()

    def gather(self, name: str, value: Any) -> list[Any]:
        self._coordinator.send(Kind.VALUE, name=name, value=value)
        place, values = self._coordinator.receive_value()
        if place != name:
            raise DisagreementError(
                f"the first process is at {place!r}, this one at {name!r}: start all with the same "
                "program and modules"
            )
        return list(values)

    def fail(self, line: str, *, may_follow: bool) -> bool:
        self._failure = may_follow
        self._coordinator.send(Kind.FAILED, line=line, may_follow=may_follow)
        self._verdict.wait(self._timeouts.consequence_secs + self._timeouts.failure_secs)
        return not self._is_common

    def leave(self) -> None:
        self.gather("leave", None)
        self._coordinator.close()

    def _await_all(self) -> None:
        """The first process may have begun to wait only when this one connected."""
        secs = self._timeouts.join_secs + self._timeouts.silence_secs
        if not self._joined.wait(secs):
            self._refuse(ProcessesError(f"process 0 {self._place} has not answered in {secs:g} s"))
        if self._refusal is not None:
            self._coordinator.drop()
            raise self._refusal

    def _refuse(self, error: InputError) -> None:
        """Makes the constructor raise an error; only the first counts."""
        self._refusal = self._refusal or error
        self._joined.set()

    def _receive(self, message: Message) -> None:
        kind = message["kind"]
        if kind == Kind.WELCOME:
            self._place = message["place"]
            self._joined.set()
        elif kind == Kind.REFUSED:
            self._refuse(InputError(message["line"]))
        elif kind == Kind.END:
            self._be_ended(message["index"], message["cause"])

    def _be_ended(self, index: int | None, cause: str | None) -> None:
        if self._refusal is not None or not self._joined.is_set():
            self._refuse(ProcessesError(cause or "the other processes have failed"))
        elif cause is None or index == self.index or self._failure is False:
            self._is_common = cause is None
            self._verdict.set()
        else:
            self._end(cause)

    def _lose_coordinator(self, what: str) -> None:
        cause = f"{process_name(0, self.count, self._place)} {what}"
        if not self._joined.is_set():
            cause += "; if it is another program that listens there, choose another port"
        self._be_ended(0, cause)


class Coordinator(Group):
    """The first process: it listens, and passes on the messages of the other processes.

    The constructor waits until all `count` (2 or more) processes have come, which share the secret
    `token`; it raises InputError for an unusable address, ProcessesError after the time-out. A
    thread calls `end`, which ends this process, once, when another has failed or is lost.
    """

    def __init__(
        self,
        count: int,
        address: Address,
        timeouts: Timeouts,
        end: Callable[[str], None],
        token: str = "",
    ):
        self.count, self.index, self.host = count, 0, address.host
        self._address = address
        self._timeouts = timeouts
        self._end = end
        self._token = token
        self._first_secs: float | None = timeouts.join_secs
        self._greetings = threading.Semaphore(_MOST_GREETINGS)
        self._places = {0: this_process()}
        self._workers: dict[int, Connection] = {}
        self._failures: dict[int, Message] = {}
        self._state = threading.Lock()  # of all of these
        self._over = False
        self._verdict = threading.Event()
        with address.listen() as server:
            self._await_all(server)
        self._send_to_all(Kind.WELCOME, place=self._places[0])

    def gather(self, name: str, value: Any) -> list[Any]:
        values = [as_json(value)]
        # The first call compares commands: a connection that sends no command is not a process.
        secs, self._first_secs = self._first_secs, None
        for index in range(1, self.count):
            try:
                place, received = self._workers[index].receive_value(secs)
            except TimeoutError:
                raise ProcessesError(
                    f"{self._name(index)} has joined, but says nothing within {secs:g} s: start "
                    f"all with the same program, and give them a {TOKEN_VARIABLE}"
                ) from None
            if place != name:
                raise DisagreementError(
                    f"{self._name(index)} is at {place!r}, the first process at {name!r}: start "
                    "all with the same program and modules"
                )
            values.append(received)
        self._send_to_all(Kind.VALUE, name=name, value=values)
        return values

    def fail(self, line: str, *, may_follow: bool) -> bool:
        self._note_failure(0, {"kind": Kind.FAILED, "line": line, "may_follow": may_follow})
        self._verdict.wait(self._timeouts.consequence_secs + self._timeouts.failure_secs)
        return True

    def leave(self) -> None:
        self.gather("leave", None)
        with self._state:
            self._over = True
        for worker in self._workers.values():
            worker.close()

    def _await_all(self, server: socket.socket) -> None:
        limit = time.monotonic() + self._timeouts.join_secs
        server.settimeout(_POLL_SECS)
        while len(self._workers) < self.count - 1:
            if time.monotonic() >= limit:
                raise self._give_up()
            if self._greetings.acquire(timeout=_POLL_SECS):
                try:
                    connected, _ = server.accept()
                except OSError as error:
                    self._greetings.release()
                    if not isinstance(error, TimeoutError):  # such as too many open files
                        time.sleep(_POLL_SECS)
                else:
                    # In a thread, so that a silent connection does not delay the processes.
                    threading.Thread(target=self._greet, args=[connected], daemon=True).start()

    def _greet(self, connected: socket.socket) -> None:
        """Drops the connection unless it is from a process of the run."""
        connection = Connection(connected, self._timeouts)
        try:
            hello = connection.receive(_HELLO_SECS, _HELLO_BYTES)
            refusal = self._admit(connection, hello) if hello["kind"] == Kind.HELLO else "no hello"
        except (OSError, MalformedError):
            connection.drop()
        else:
            if refusal is not None:
                connection.send(Kind.REFUSED, line=refusal)
                connection.finish()
        finally:
            self._greetings.release()

    def _admit(self, connection: Connection, hello: Message) -> str | None:
        """Adds the process that sent `hello`, or returns why it is refused."""
        with self._state:
            refusal = self._reason_to_refuse(hello)
            if refusal is None:
                index = hello["index"]
                self._places[index] = hello["place"]
                self._workers[index] = connection
                connection.start(
                    lambda message: self._note_failure(index, message),
                    lambda what: self._end_for(index, f"{self._name(index)} {what}"),
                )
        return refusal

    def _reason_to_refuse(self, hello: Message) -> str | None:
        index, count = hello["index"], hello["count"]
        if not hmac.compare_digest(hello["token"].encode(), self._token.encode()):
            return (
                "its token differs from process 0's: give all processes the same "
                f"{TOKEN_VARIABLE}, or none"
            )
        if count != self.count:
            return (
                f"process {index} was started with --num_processes={count}, the first process with "
                f"{self.count}: start all with the same number"
            )
        if not 0 < index < count:
            return f"there is no process {index} besides process 0 of {count}"
        if index in self._workers:
            return (
                f"two processes were started with --process_id={index}, the other one is "
                f"{self._places[index]}: give each another number"
            )
        return "it has come too late" if self._over else None

    def _give_up(self) -> ProcessesError:
        with self._state:
            self._over = True
        missing = [i for i in range(1, self.count) if i not in self._workers]
        subject, verb = ("process", "has") if len(missing) == 1 else ("processes", "have")
        line = (
            f"{subject} {', '.join(map(str, missing))} of {self.count} {verb} not come within "
            f"{self._timeouts.join_secs:g} s: start {self.count} processes, --process_id=0 to "
            f"{self.count - 1}, with the same --coordinator, which all must reach"
        )
        self._send_to_all(Kind.END, cause=line, index=None)
        for worker in self._workers.values():
            worker.finish()
        return ProcessesError(line)

    def _note_failure(self, index: int, message: Message) -> None:
        if message["kind"] != Kind.FAILED:
            return
        timeouts = self._timeouts
        with self._state:
            self._failures[index] = message
            secs = timeouts.consequence_secs if message["may_follow"] else timeouts.failure_secs
            secs *= len(self._failures) < self.count  # all have failed: do not wait
        timer = threading.Timer(secs, self._decide)
        timer.daemon = True
        timer.start()

    def _decide(self) -> None:
        with self._state:
            if self._over:
                return
            self._over = True
            failures = dict(self._failures)
        lines = {failure["line"] for failure in failures.values()}
        if len(failures) == self.count and len(lines) == 1:
            self._end_all(None, None)
            self._verdict.set()
            return
        # An error comes before its possible consequences.
        index = min(failures, key=lambda i: bool(failures[i]["may_follow"]))
        cause = f"{self._name(index)} failed: {failures[index]['line']}"
        self._end_all(index, cause)
        if index == 0 or (0 in failures and not failures[0]["may_follow"]):
            self._verdict.set()
        else:
            self._end(cause)

    def _end_for(self, index: int, cause: str) -> None:
        with self._state:
            if self._over:
                return
            self._over = True
        self._end_all(index, cause)
        self._end(cause)

    def _end_all(self, index: int | None, cause: str | None) -> None:
        """Waits for all other processes to end: exiting would reset their connections."""
        self._send_to_all(Kind.END, cause=cause, index=index)
        limit = time.monotonic() + _END_SECS
        for worker in list(self._workers.values()):
            worker.wait(max(0.0, limit - time.monotonic()))

    def _send_to_all(self, kind: Kind, **fields: Any) -> None:
        for worker in list(self._workers.values()):
            worker.send(kind, **fields)

    def _name(self, index: int) -> str:
        return process_name(index, self.count, self._places[index])
