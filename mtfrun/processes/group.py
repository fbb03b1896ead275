from __future__ import annotations

import abc
import json
import os
import socket
from typing import Any

from mtfrun.errors import InputError


class ProcessesError(InputError):
    """The processes of a run cannot be brought together, or one of them has failed; one line."""


class DisagreementError(ProcessesError):
    """Two processes have asked for different things at the same time: their programs differ."""


class Group(abc.ABC):
    """The processes of a run, seen from process `index` (from 0), which all reach at `host`."""

    count: int
    index: int
    host: str

    @abc.abstractmethod
    def gather(self, name: str, value: Any) -> list[Any]:
        """Collective: returns all JSON values in order; DisagreementError if names differ."""

    @abc.abstractmethod
    def fail(self, line: str, *, may_follow: bool) -> bool:
        """Announces that this process ends with an error; all other processes end too.

        If the loss of another process may have caused it (`may_follow`), it first waits until such
        a loss would have been noticed, which ends this process. Returns whether to print the error:
        False if all processes have the same one, and this is not the first process.
        """

    @abc.abstractmethod
    def leave(self) -> None:
        """Waits until all processes leave; then none misses another."""


class Alone(Group):
    count, index, host = 1, 0, "localhost"

    def gather(self, name: str, value: Any) -> list[Any]:
        del name
        return [as_json(value)]

    def fail(self, line: str, *, may_follow: bool) -> bool:
        del line, may_follow
        return True

    def leave(self) -> None:
        pass


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
