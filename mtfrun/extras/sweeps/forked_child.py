"""Child processes that are forked from a server, which has imported the modules that they need."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from mtfrun.errors.untrusted import open_to_write
from mtfrun.processes.child_process import LAUNCHER, python_command

_T = TypeVar("_T")

SERVER_ERRORS = (AssertionError, EOFError, OSError)
"""The server cannot be started: its imports fail, or this process may have no children."""

_FORKS = multiprocessing.get_context("forkserver")
# A terminal that is closed sends SIGHUP to the server as well; it must not end before its children
# have saved.
_BLOCKED = (signal.SIGTERM, signal.SIGHUP)
# The server and the tracker are `python -c`, which imports from the working directory, without it.
_SAFE_PATH = "PYTHONSAFEPATH"


class Server(NamedTuple):
    """A process that imports modules once, and is forked for each child."""

    preloaded: Sequence[str]  # the names of the modules
    # the function that a child calls with its arguments, which returns an exit code
    main: Callable[[list[str]], int]
    program: Sequence[str]  # the command that does the same in a process of its own


class ForkedChild:
    """A child in a new session, with a file for its output; see `start_child`.

    The first one starts the server.
    """

    def __init__(
        self, server: Server, arguments: Sequence[str], typed: Sequence[str], output: pathlib.Path
    ) -> None:
        _FORKS.set_forkserver_preload(list(server.preloaded))
        words = (server.main, [*server.program, *arguments], list(arguments), list(typed), output)
        self._process = _FORKS.Process(target=_run, args=words)
        with _starting():
            self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Returns the exit code, -number if a signal has ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def call_forked(
    preloaded: Sequence[str], function: Callable[..., _T], *arguments: object
) -> _T | None:
    """Calls a function in a process that is forked from the server; here if it does not start.

    Returns None if the process fails.
    """
    _FORKS.set_forkserver_preload(list(preloaded))
    reader, writer = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_send, args=(writer, function, arguments))
    try:
        with _starting():
            process.start()
    except SERVER_ERRORS:
        return function(*arguments)
    writer.close()
    with reader, contextlib.suppress(EOFError):
        result: _T = reader.recv()
        process.join()
        return result
    return None


def _send(
    writer: multiprocessing.connection.Connection,
    function: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    writer.send(function(*arguments))


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    is_safe = _SAFE_PATH in os.environ or "-P" not in python_command()
    if not is_safe:
        os.environ[_SAFE_PATH] = "1"
    # The server starts this tracker, which would unblock SIGTERM for the server as well.
    multiprocessing.resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        if not is_safe:
            del os.environ[_SAFE_PATH]


def _run(
    main: Callable[[list[str]], int],
    command: list[str],
    arguments: list[str],
    typed: list[str],
    output: pathlib.Path,
) -> None:
    with open_to_write(output, "ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    os.environ.pop(_SAFE_PATH, None)  # for programs that a module of the user starts
    os.setsid()
    server = os.getppid()
    os.environ[LAUNCHER] = json.dumps({"pid": server, "command": typed})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
    # A lock that another thread of the server held would stay locked here. OpenBLAS ends its
    # threads before a fork.
    if len(list(pathlib.Path(f"/proc/{server}/task").glob("*"))) > 1:
        os.execv(command[0], command)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger().handlers.clear()  # handlers that imports have added
    sys.exit(main(arguments))


def _end_with_parent() -> None:
    """Ends this child when the server ends, which lives as long as any child."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
