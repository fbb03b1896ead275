"""Lock files, which the kernel frees however a process ends."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import open_regular, open_to_write, read_json
from mtfrun.files.errors import RunDirError, reason

_ATTEMPTS, _PAUSE_SECS = 4, 0.05


def lock_file(path: pathlib.Path, *, waits: bool = True) -> io.FileIO:
    """Returns the file, locked until it is closed or the process ends in any way.

    It is never removed: otherwise two processes could lock two files of one name. BlockingIOError
    if another process holds it, and this one does not wait.
    """
    file = open_to_write(path, "rb+")
    try:
        for _ in range(0 if waits else _ATTEMPTS):
            # `is_locked` of another process holds a lock for a moment.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            time.sleep(_PAUSE_SECS)
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock file `path` during the block; waits while another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file(path)
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror or error}"
        raise InputError(f"{problem}; name another place with MTFRUN_CACHE_DIR") from error
    with file:
        yield


@contextlib.contextmanager
def writer_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock file `path` during the block; the kernel frees it however the process ends.

    RunDirError names the pid, host and start time of another holder.
    """
    path = pathlib.Path(path)
    try:
        file = lock_file(path, waits=False)
    except BlockingIOError:
        note = None
        with contextlib.suppress(OSError, ValueError):
            note = read_json(path)
        remedy = "stop that process or name another --model_dir"
        holder = describe_process(note)
        raise RunDirError(f"{path.parent} is in use by {holder}; {remedy}") from None
    except OSError as error:
        remedy = "name a --model_dir you may write to, on a file system with locks"
        raise RunDirError(f"cannot lock {path}: {reason(error)}; {remedy}") from error
    with file:
        _replace_text(file.fileno(), json.dumps(this_process()))
        try:
            yield
        finally:
            _replace_text(file.fileno(), "")


def is_locked(path: str | os.PathLike[str]) -> bool:
    try:
        with open_regular(pathlib.Path(path)) as file:
            # Shared, so that two processes that call this function do not see each other's lock.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _replace_text(descriptor: int, text: str) -> None:
    """On a full disk the lock works without the note about its holder."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def this_process() -> dict[str, object]:
    """Returns what a lock says about its holder."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def describe_process(note: Any) -> str:
    try:
        return f"process {note['pid']} on {note['host']} (since {note['since']})"
    except (KeyError, TypeError):
        return "another process"
