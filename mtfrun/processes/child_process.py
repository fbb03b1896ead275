"""Child processes: their start, signals and errors; programs that answer lines of JSON."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import IO, Any

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ERROR = "mtfrun: error: "
LAUNCHER = "MTFRUN_LAUNCHER"
"""An environment variable: JSON with the launcher's process id and its command line."""

# From linux/prctl.h: the signal that the kernel sends to this process when its parent ends.
_PR_SET_PDEATHSIG = 1


def end_with_launcher(environment: MutableMapping[str, str] = os.environ) -> list[str] | None:
    """Returns the command line of the launcher that has started this process; None without one.

    From then on this process gets SIGTERM when its launcher ends (on Linux), so that a training is
    saved even after `kill -9`. The variable is removed, for programs that this process starts.
    """
    text = environment.pop(LAUNCHER, None)
    if text is None:
        return None
    launcher = json.loads(text)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != launcher["pid"]:  # it has ended before
            os.kill(os.getpid(), signal.SIGTERM)
    return [str(word) for word in launcher["command"]]


def python_command() -> list[str]:
    """Returns the interpreter, for `-m`, which imports from the working directory.

    The script `mtfrun` does not, and neither do its children: the directory may be anybody's.
    """
    is_first = sys.path[:1] in ([""], [str(pathlib.Path.cwd())])
    return [sys.executable] if is_first else [sys.executable, "-P"]


def start_child(
    arguments: Sequence[str],
    typed: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a new session: Ctrl-C on a terminal reaches this process alone."""
    launcher = json.dumps({"pid": os.getpid(), "command": list(typed)})
    return subprocess.Popen(
        arguments,
        env={**os.environ, LAUNCHER: launcher, **(environment or {})},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


@contextlib.contextmanager
def forward_signals(send: Callable[[int], None]) -> Iterator[None]:
    """Ignored signals, as by nohup, remain ignored."""
    numbers = [n for n in _FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]
    former = {number: signal.signal(number, lambda n, _: send(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def last_error(output: bytes) -> str | None:
    """Returns the last error that mtfrun has printed in `output`, without "mtfrun: error: "."""
    lines = output.decode("utf-8", "replace").splitlines()
    errors = [line for line in lines if line.startswith(_ERROR)]
    return errors[-1].removeprefix(_ERROR) if errors else None


class NoAnswerError(Exception):
    """The process has ended, or took too long."""


class AnsweringChild:
    """A program that answers lines of JSON; questions start it, again after its end.

    A signal that raises an exception during a question ends it.

    Args:
      program: a Python file, which limits its memory itself.
      most_secs: the longest time of an answer.
    """

    def __init__(self, program: pathlib.Path, most_secs: float):
        # -P: the folder of the program is no place for imports.
        self._command = [sys.executable, "-P", str(program)]
        self._most_secs = most_secs
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "answers")

    def ask(self, request: str) -> dict[str, Any]:
        """Returns the answer to a line; NoAnswerError."""
        with self._lock:
            if self._process is None:
                pipe, silent = subprocess.PIPE, subprocess.DEVNULL
                self._process = start_child(
                    self._command, self._command, stdin=pipe, stdout=pipe, stderr=silent
                )
            process = self._process
            assert process.stdin is not None and process.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # it has ended
                    process.stdin.write(request.encode("utf-8", "replace") + b"\n")
                    process.stdin.flush()
                line = self._reader.submit(process.stdout.readline).result(self._most_secs)
                if not line.endswith(b"\n"):
                    raise TimeoutError
            except TimeoutError:
                self.close()
                raise NoAnswerError from None
            except BaseException:
                self.close()
                raise
            answer: dict[str, Any] = json.loads(line)
            return answer

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def __del__(self) -> None:
        self.close()
