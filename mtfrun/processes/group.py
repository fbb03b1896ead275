"""A single process, and a process that is connected to the first process of its run."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from mtfrun.errors import InputError
from mtfrun.processes.connection import Address, Connection, Kind, Message, ProcessesError, Timeouts


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
