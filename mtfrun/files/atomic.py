"""Atomic writing of text files: a file is complete or absent, whenever the process dies."""

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import TextIO

from mtfrun.errors.untrusted import is_special
from mtfrun.files.errors import RunDirError, reason
from mtfrun.files.store import is_url

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
"""Names of files that are being written; a killed process leaves them behind."""

# Temporary files that this process is writing.
_outputs_in_progress: set[pathlib.Path] = set()


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens `path` for writing UTF-8 text that appears there only if the block succeeds.

    The text goes to a temporary file beside it, is forced to the disk and renamed. Missing parent
    directories are created. A terminal, pipe or other device (`/dev/stdout`) is written directly.
    Failures are RunDirErrors.
    """
    if "\0" in os.fspath(path):
        raise RunDirError(f"cannot write {os.fspath(path)!r}: a name of a file has no NUL")
    if is_url(path):
        raise RunDirError(f"cannot write {path}: name a local file, and copy it to the store")
    path = pathlib.Path(path)
    if path.is_relative_to("/dev") or is_special(path):
        with _write_errors(path, path), path.open("w", encoding="utf-8") as file:
            yield file
        return
    # A symbolic link remains, and its target is replaced.
    with _replacing(path, pathlib.Path(os.path.realpath(path)), is_removed_on_exit=True) as file:
        yield file


def remove_outputs_in_progress() -> None:
    """For a process that exits without leaving the functions here; in any thread."""
    for temporary in tuple(_outputs_in_progress):
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_replace(path: pathlib.Path, *, is_removed_on_exit: bool = True) -> Iterator[TextIO]:
    """Opens a file of a run directory as `atomic_open` does, but writes nothing outside of it.

    A symbolic link of that name is replaced, and its target is not touched: the directory may be
    untrusted. A pipe, device or directory is moved to another name, with a warning.
    `is_removed_on_exit`: whether `remove_outputs_in_progress` removes the temporary file. A
    manifest's remains, as it marks its checkpoint as incomplete, see partial_files.py.
    """
    _move_special(path)
    with _replacing(path, path, is_removed_on_exit=is_removed_on_exit) as file:
        yield file


def atomic_write(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file of a run directory, all of it or nothing; see `atomic_replace`."""
    with atomic_replace(pathlib.Path(path)) as file:
        file.write(text)


def _move_special(path: pathlib.Path) -> None:
    if not is_special(path):
        return
    numbers = (path.with_name(f"{path.name}.moved-{number}") for number in itertools.count(1))
    target = next(name for name in numbers if not os.path.lexists(name))
    with _write_errors(path, path):
        path.rename(target)
    logging.getLogger(__name__).warning("%s is not a file: moved to %s", path, target.name)


@contextlib.contextmanager
def _replacing(
    path: pathlib.Path, target: pathlib.Path, *, is_removed_on_exit: bool
) -> Iterator[TextIO]:
    temporary = temporary_path(target)
    with _write_errors(path, temporary):
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_removed_on_exit:
            _outputs_in_progress.add(temporary)
        try:
            # surrogateescape: a command line may hold bytes that are not UTF-8.
            with temporary.open("x", encoding="utf-8", errors="surrogateescape") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        finally:
            _outputs_in_progress.discard(temporary)
        sync_directory(target.parent)


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def remove_temporary_files(path: pathlib.Path) -> None:
    """Removes what killed processes have left of writing `path`; no process may be writing it."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if TEMPORARY.fullmatch(temporary.name):
            with contextlib.suppress(OSError):
                temporary.unlink()


def sync_file(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: pathlib.Path) -> None:
    """Does nothing where the file system does not allow it."""
    with contextlib.suppress(OSError):
        sync_file(directory)


@contextlib.contextmanager
def _write_errors(path: pathlib.Path, temporary: pathlib.Path) -> Iterator[None]:
    """Turns failures to write `path` into a RunDirError; other files' errors pass through."""
    try:
        yield
    except OSError as error:
        # Errors of write() and fsync() carry no name. Any other name than these means that the
        # caller's block, not our file, has failed.
        our_names = {str(name) for name in (path, temporary, *temporary.parents)}
        if error.filename is not None and str(error.filename) not in our_names:
            raise
        remedy = "free space or name a place you may write to"
        raise RunDirError(f"cannot write {path}: {reason(error)}; {remedy}") from error
