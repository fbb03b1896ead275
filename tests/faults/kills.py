"""Kills at a chosen operation on the files of a directory, from within the process."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable

# What Python says before it does it: https://docs.python.org/3/library/audit_events.html
_OPERATIONS = frozenset(
    [
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir"),
        *("os.link", "os.truncate", "shutil.rmtree"),
    ]
)


@dataclasses.dataclass(frozen=True)
class CountOperations:
    """Writes the number of operations below a directory to a file, at every one of them.

    Attributes:
      directory: the directory, which need not exist.
      file: where the number goes.
    """

    directory: str
    file: str

    def __call__(self) -> None:
        """Begins to count."""
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o644)
        _at_operations(
            self.directory, lambda count: os.pwrite(descriptor, f"{count:8}".encode(), 0)
        )


@dataclasses.dataclass(frozen=True)
class KillAtOperation:
    """Kills the process at the n-th operation below a directory, or some seconds after that.

    The seconds are for what TensorFlow does between two operations of Python: writing the data.

    Attributes:
      directory: the directory, which need not exist.
      number: of the operation, from 1.
      secs: until the kill; at 0 the operation does not happen.
    """

    directory: str
    number: int
    secs: float = 0.0

    def __call__(self) -> None:
        """Begins to count."""
        _at_operations(self.directory, self._kill_at)

    def _kill_at(self, count: int) -> None:
        if count != self.number:
            return
        if self.secs:
            threading.Thread(target=self._kill, daemon=True).start()
        else:
            self._kill()

    def _kill(self) -> None:
        time.sleep(self.secs)
        os.kill(os.getpid(), signal.SIGKILL)


def _at_operations(directory: str, function: Callable[[int], object]) -> None:
    """Calls the function with the number of every operation, just before it, in its thread."""
    lock = threading.Lock()
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _OPERATIONS or not arguments:
            return
        path = arguments[0]
        if isinstance(path, str | pathlib.Path) and str(path).startswith(directory):
            with lock:
                count += 1
                current = count
            function(current)

    sys.addaudithook(hook)
