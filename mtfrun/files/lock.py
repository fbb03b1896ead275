from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from mtfrun.errors.untrusted import open_regular, read_json
from mtfrun.files.errors import RunDirError, reason
from mtfrun.files.url_cache import lock_file


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
