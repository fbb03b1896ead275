"""Names of files, their content, and the state by which a change is noticed without reading it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from mtfrun.data.errors import DataError
from mtfrun.untrusted import read_regular


def file_state(path: Path) -> str:
    """Returns the size of a file and the time of its last change, as readable text to compare.

    Raises:
      DataError: the file does not exist, or its status cannot be read.
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


def regular_content(path: Path, largest: int = 1 << 30) -> bytes:
    """Returns the content of a regular file of at most `largest` bytes, see `read_regular`."""
    return read_regular(path, largest)
