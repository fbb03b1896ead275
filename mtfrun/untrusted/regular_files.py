"""Names and types of files, and reading of regular files that never waits for a pipe."""

from __future__ import annotations

import errno
import io
import os
import pathlib
import stat
from typing import Any, BinaryIO, Literal

from mtfrun.untrusted.strict_json import parse_json

LARGEST_TEXT = 1 << 28
"""The most bytes of a record of a run: a manifest of 100,000 variables has 20 MB."""

# Of a name in the usual file systems.
_LONGEST_NAME = 255


def is_plain_name(value: object) -> bool:
    """Returns whether a value of a record is the name of a file, and of none outside its directory.

    Whatever names a file in a record of a run, which anybody may have written, goes through this.
    """
    return (
        type(value) is str
        and value.isprintable()
        and "/" not in value
        and value not in ("", ".", "..")
        and len(value.encode()) <= _LONGEST_NAME
    )


def is_regular(path: pathlib.Path) -> bool:
    """Returns whether `path`, links followed, is a regular file."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_directory(path: pathlib.Path) -> bool:
    """Returns whether `path`, links followed, is a directory."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_special(path: pathlib.Path) -> bool:
    """Returns whether `path`, links followed, exists and is not a regular file."""
    mode = _mode(path)
    return mode is not None and not stat.S_ISREG(mode)


def _mode(path: pathlib.Path) -> int | None:
    """Returns the type and the permissions of a file; None where it cannot be looked up.

    `Path.is_file` raises an error instead, for example below a directory that is not readable.
    """
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def open_regular(path: pathlib.Path, *, follows_links: bool = True) -> BinaryIO:
    """Returns the regular file `path`, open for reading bytes.

    Opening a pipe waits for its other end, for ever if there is none: it is opened without waiting,
    and refused.

    Raises:
      OSError: it cannot be opened, or is a pipe, device or directory, or a link that is not
        followed.
    """
    if not follows_links and path.is_symlink():
        raise OSError(errno.ELOOP, "Not a regular file but a link", path)
    no_links = 0 if follows_links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_links)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_to_write(path: pathlib.Path, mode: Literal["ab", "rb+"]) -> io.FileIO:
    """Returns a file, made if it is missing, open for writing, unbuffered and not truncated.

    No link is followed, which in a directory from elsewhere may lead to any file, and no pipe is
    waited for.

    Raises:
      OSError: it cannot be made, or is no regular file.
    """
    append = os.O_APPEND if mode == "ab" else 0
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | append
    file = os.fdopen(os.open(path, flags, 0o666), mode, buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return file


def read_regular(path: pathlib.Path, largest: int, *, follows_links: bool = True) -> bytes:
    """Returns the content of the regular file `path` of at most so many bytes; see `open_regular`.

    Raises:
      OSError: also where it has more bytes.
    """
    with open_regular(path, follows_links=follows_links) as file:
        # By its size: Python reserves memory for as many bytes as it is to read.
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest} bytes", path)
        return file.read()


def read_regular_text(path: pathlib.Path) -> str:
    """Returns the UTF-8 text of the regular file `path`; see `read_regular`."""
    return read_regular(path, LARGEST_TEXT).decode()


def read_json(path: pathlib.Path) -> Any:
    """Returns the value of the JSON file `path`.

    Raises:
      OSError: see `read_regular`.
      JsonError: it holds something else; a ValueError whose message does not name the file.
    """
    return parse_json(read_regular(path, LARGEST_TEXT))
