from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mtfrun.errors import InputError
from mtfrun.processes.address import Address
from mtfrun.processes.connection import (
    END,
    FAILED,
    HELLO,
    KIND,
    REFUSED,
    WELCOME,
    Connection,
    Message,
)
from mtfrun.processes.group import (
    DisagreementError,
    Group,
    ProcessesError,
    process_name,
    this_process,
)
from mtfrun.processes.heartbeat import Timeouts


class Worker(Group):
    """A process that is connected to the first one; see `Coordinator` for the arguments.

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
            {KIND: HELLO, "index": index, "count": count, "place": this_process(), "token": token}
        )
        self._coordinator.start(self._receive, self._lose_coordinator)
        self._await_all()

    def gather(self, name: str, value: Any) -> list[Any]:
        self._coordinator.send_value(name, value)
        asked, values = self._coordinator.receive_value()
        if asked != name:
            raise DisagreementError(
                f"the first process is at {asked!r}, this one at {name!r}: start all with the same "
                "program and modules"
            )
        return list(values)

    def fail(self, line: str, *, may_follow: bool) -> bool:
        self._failure = may_follow
        self._coordinator.send({KIND: FAILED, "line": line, "may_follow": may_follow})
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
        """Makes the constructor raise an error; only the first one counts."""
        self._refusal = self._refusal or error
        self._joined.set()

    def _receive(self, message: Message) -> None:
        kind = message[KIND]
        if kind == WELCOME:
            self._place = message["place"]
            self._joined.set()
        elif kind == REFUSED:
            self._refuse(InputError(message["line"]))
        elif kind == END:
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
