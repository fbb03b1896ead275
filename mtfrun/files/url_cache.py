"""Where copies of a store's files are on this machine: $MTFRUN_CACHE_DIR/stores."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import open_to_write
from mtfrun.errors.url_secrets import mask_url

_LONGEST_NAME = 100
_ATTEMPTS = 5
_PAUSE_SECS = 0.05


def cache_directory(kind: str, url: str) -> pathlib.Path:
    """Returns the directory of a URL's copies; its name is the last part of the URL."""
    chosen = os.environ.get("MTFRUN_CACHE_DIR") or "~/.cache/mtfrun"
    root = pathlib.Path(os.path.expanduser(chosen)).absolute()
    url = mask_url(url.rstrip("/"))
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    last = url.partition("?")[0].rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-_LONGEST_NAME:].lstrip(".")
    return root / "stores" / kind / digest / (name or "_")


def check_room(directory: pathlib.Path, size: int, url: str) -> None:
    """Raises InputError if the disk of an existing directory has no room for a download."""
    free = shutil.disk_usage(directory).free
    if size > free:
        room = f"{directory} has room for {free:,} of {size:,} bytes"
        raise InputError(f"{url}: {room}; name another place with MTFRUN_CACHE_DIR")


def lock_file(path: pathlib.Path, *, waits: bool = True) -> io.FileIO:
    """Returns the file, locked until it is closed or the process ends in any way.

    It is never removed: otherwise two processes could lock two files of one name. BlockingIOError
    if another process holds it, and this one does not wait.
    """
    file = open_to_write(path, "rb+")
    try:
        for _ in range(0 if waits else _ATTEMPTS - 1):
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
