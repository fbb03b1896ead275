"""One writer at a time in a run directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator

from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.regular_files import open_regular, read_regular_text

_ATTEMPTS = 5
_PAUSE_SECS = 0.05


@contextlib.contextmanager
def writer_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock file `path` for the block; the kernel frees it however the process ends.

    The file stays, empty: were it removed, two processes could lock two files of one name.

    Raises:
      RunDirError: another process holds it (the message names its pid, host and start time), or the
        file cannot be made, or its file system has no locks.
    """
    path = os.fspath(path)
    directory = os.path.dirname(path) or "."
    try:
        # Not truncated here: what the holder wrote must survive our attempt.
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise RunDirError(
            f"cannot make {path}: {reason(error)}; name a --model_dir you may write to"
        ) from error
    with file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            raise RunDirError(
                f"{directory} is in use by {_holder(path)};"
                " stop that process or name another --model_dir"
            ) from None
        except OSError as error:
            raise RunDirError(
                f"cannot lock {path}: {reason(error)};"
                " use a --model_dir on a file system with locks"
            ) from error
        _replace_text(file.fileno(), json.dumps(_this_process()))
        try:
            yield
        finally:
            _replace_text(file.fileno(), "")


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Returns whether a process holds the lock file `path`; False where there is none."""
    try:
        with open_regular(os.fspath(path)) as file:
            # Shared, so that those who look do not see each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(descriptor: int) -> None:
    """Takes the lock; not refused by somebody who looks in this moment, see `is_locked`."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_PAUSE_SECS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _replace_text(descriptor: int, text: str) -> None:
    """Writes the note about the holder; on a full disk the lock works without one."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())


def _holder(path: str) -> str:
    """Returns who wrote the note in the lock file `path`, in words."""
    try:
        note = json.loads(read_regular_text(path))
        return f"process {note['pid']} on {note['host']} (since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
