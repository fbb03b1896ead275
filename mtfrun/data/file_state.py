"""Names of files, their content, and the state by which a change is noticed without reading it."""

from __future__ import annotations

import datetime
import errno
import os
import stat
from pathlib import Path

from mtfrun.data.errors import DataError


def file_state(path: Path) -> str:
    """Returns the size of a file and the time of its last change, for people and comparisons.

    Raises:
      DataError: there is no such file, or it cannot be looked up.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    secs, nanosecs = divmod(status.st_mtime_ns, 10**9)
    time = datetime.datetime.fromtimestamp(secs, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{status.st_size} bytes of {time}.{nanosecs:09}"


def absolute_path(name: str) -> Path:
    """Returns an absolute path, in which `~` is the home directory.

    `~name` of a user who does not exist is the name of a file: `Path.expanduser` raises an error.

    Raises:
      DataError: it is no name of a file.
    """
    if not isinstance(name, str | os.PathLike) or "\0" in os.fspath(name):
        raise DataError(f"{name!r} is no name of a file: give a text, without NUL")
    return Path(os.path.expanduser(name)).absolute()


def regular_content(path: Path) -> bytes:
    """Returns the content of a regular file; a pipe or device would be waited for, or never end.

    Raises:
      OSError: it cannot be read, or is no regular file.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return file.read()
