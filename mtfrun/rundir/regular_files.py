"""Reading the files of a run directory without waiting for what is no file."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import BinaryIO


def open_regular(path: str) -> BinaryIO:
    """Returns the regular file `path`, open for reading bytes.

    To open a pipe waits for its other end, for ever if there is none: it is opened without waiting,
    and refused.

    Raises:
      OSError: it cannot be opened, or is a pipe, device or directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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


def read_regular_text(path: str) -> str:
    """Returns the UTF-8 text of the regular file `path`; see `open_regular`."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8") as file:
        return file.read()
