"""Checks of the names and types of files, and reads of regular files that never block on a pipe."""

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

# Bytes of a name in common file systems.
_LONGEST_NAME = 255


def is_plain_name(value: object) -> bool:
    """Returns whether a value from a record is a plain file name, without a directory.

    All code that reads a file name from an untrusted record of a run calls this.
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
    """Returns the type and the permissions of a file; None if `stat` fails.

    `Path.is_file` raises an error instead, for example below a directory that is not readable.
    """
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def open_regular(path: pathlib.Path, *, follows_links: bool = True) -> BinaryIO:
    """Returns the regular file `path`, open for reading bytes.

    Opening a pipe would wait for its other end, possibly for ever: it is opened with O_NONBLOCK,
    and refused.

    Raises:
      OSError: it cannot be opened, or is a pipe, device or directory, or a link although
        `follows_links` is False.
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
    """Returns a file open for writing, unbuffered and not truncated; creates it if it is missing.

    It follows no link, which in an untrusted directory may lead to any file, and does not wait for
    a pipe.

    Raises:
      OSError: it cannot be created, or is not a regular file.
    """
    append = os.O_APPEND if mode == "ab" else 0
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | append
    file = os.fdopen(os.open(path, flags, 0o666), mode, buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return file


def read_regular(path: pathlib.Path, largest: int, *, follows_links: bool = True) -> bytes:
    """Returns the content of the regular file `path`; see `open_regular`.

    Raises:
      OSError: see `open_regular`; also if it has more than `largest` bytes.
    """
    with open_regular(path, follows_links=follows_links) as file:
        # Check the size first: read() allocates memory for the whole file.
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
      JsonError: it is not strict JSON; a ValueError whose message does not name the file.
    """
    return parse_json(read_regular(path, LARGEST_TEXT))
