"""The clock of a training that the launcher lets jump."""

from __future__ import annotations

import contextlib
import pathlib
import time

from mtfrun.rundir import atomic_write


def clock_of(file: pathlib.Path, process: int) -> pathlib.Path:
    """Returns the file of a process, where all are told the same one."""
    return file.with_name(f"{file.name}.{process}")


class JumpingClock:
    """The monotonic clock plus the seconds in a file, of which there are none without it."""

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file

    def __call__(self) -> float:
        return time.monotonic() + _offset(self._file)


def jump(file: pathlib.Path, secs: float) -> None:
    """Lets the clock of a file jump forwards."""
    atomic_write(file, repr(_offset(file) + secs))


def _offset(file: pathlib.Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return float(file.read_text())
    return 0.0
