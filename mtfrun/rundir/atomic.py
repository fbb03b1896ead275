"""Files that are either whole or absent, whenever the process dies."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from typing import TextIO

from mtfrun.rundir.errors import RunDirError, reason

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
"""Names of files that `atomic_open` has not finished; a killed process leaves them behind."""


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens `path` for writing UTF-8 text that appears there only when the block ends well.

    The text goes to a temporary name in the same directory, is forced to the disk and renamed, so a
    reader sees the old file or the new one, never a part. An error or an interrupt in the block
    removes the temporary file and leaves the old one. Missing parent directories are made. A
    terminal, pipe or other device (`/dev/stdout`) has nothing to replace and is written directly.

    Raises:
      RunDirError: the file cannot be written (disk full, not permitted, a directory of that name).
    """
    path = os.fspath(path)
    if path.startswith("/dev/") or _is_device(path):
        with _write_errors(path, path), open(path, "w", encoding="utf-8") as file:
            yield file
        return
    with _replacing(path) as file:
        yield file


@contextlib.contextmanager
def atomic_replace(path: str) -> Iterator[TextIO]:
    """Opens a file of a run directory as `atomic_open` does, but never writes to a pipe or device.

    None of these files is one: who wrote to a pipe in a file's place would wait for a reader.

    Raises:
      RunDirError: it cannot be written, or there is a pipe or device of that name.
    """
    if _is_device(path):
        raise RunDirError(
            f"cannot write {path}: it is no file but a pipe, device or directory; remove it"
        )
    with _replacing(path) as file:
        yield file


def _is_device(path: str) -> bool:
    """Returns whether there is something else than a file, links followed."""
    return os.path.exists(path) and not os.path.isfile(path)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[TextIO]:
    """Does what `atomic_open` says of files."""
    # A link stays a link: what it points to is replaced.
    target = os.path.realpath(path)
    directory, temporary = os.path.dirname(target), unfinished(target)
    with _write_errors(path, temporary):
        os.makedirs(directory, exist_ok=True)
        try:
            # surrogateescape: a command line may hold bytes that are no UTF-8.
            with open(temporary, "x", encoding="utf-8", errors="surrogateescape") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_directory(directory)


def atomic_write(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as a whole or not at all; see `atomic_open`."""
    with atomic_open(path) as file:
        file.write(text)


def unfinished(path: str) -> str:
    """Returns a new name beside `path` that `TEMPORARY` matches."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{secrets.token_hex(4)}.partial")


def sync_file(path: str) -> None:
    """Waits until what was written to `path`, by whichever process, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: str) -> None:
    """Waits until the names in `directory` are on the disk, where the file system allows it."""
    with contextlib.suppress(OSError):
        sync_file(directory)


@contextlib.contextmanager
def _write_errors(path: str, temporary: str) -> Iterator[None]:
    """Turns failures to write `path` into a RunDirError; other files' errors pass through."""
    try:
        yield
    except OSError as error:
        # write() and fsync() errors carry no name; a foreign name means that the caller's block,
        # not our file, has failed.
        ours = (None, path, temporary, os.path.dirname(temporary))
        if error.filename not in ours:
            raise
        raise RunDirError(
            f"cannot write {path}: {reason(error)}; free space or name a place you may write to"
        ) from error
