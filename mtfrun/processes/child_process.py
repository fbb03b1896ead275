from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import IO

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
