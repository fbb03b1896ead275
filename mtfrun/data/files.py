"""Names of files: absolute paths, glob patterns, and states that show changes."""

# Not pathlib: `Path.glob` matches hidden files as well, and its `**` follows no links to folders.
# ruff: noqa: PTH113, PTH114, PTH118, PTH120, PTH207

from __future__ import annotations

import contextlib
import datetime
import functools
import glob
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mtfrun.data.errors import DataError
from mtfrun.files import is_url, local_copy, origin_of

# Bytes of a file that is read at once.
LARGEST_CONTENT = 1 << 30


def file_states(paths: Iterable[str | Path]) -> dict[str, str]:
    """Returns the state of every file by its name, or by the URL that it is a copy of."""
    states = {}
    for path in map(Path, paths):
        if (origin := origin_of(path)) is None:
            states[str(path)] = file_state(path)
        else:  # the same on every machine
            states[origin.url] = f"{origin.file.bytes} bytes, version {origin.file.version}"
    return states


def file_state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    secs, nanosecs = divmod(status.st_mtime_ns, 10**9)
    time = datetime.datetime.fromtimestamp(secs, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{status.st_size} bytes of {time}.{nanosecs:09}"


def try_to_write(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside `path`, and renames it; ignores failures."""
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as work,
    ):
        beside = Path(work) / path.name
        write(beside)
        beside.rename(path)


def absolute_path(name: str) -> Path:
    """Replaces `~` by the home directory, and a URL by the copy of its file, or folder.

    `~name` of a user who does not exist is a file name: `Path.expanduser` raises an error.
    """
    if not isinstance(name, str | os.PathLike) or "\0" in os.fspath(name):
        raise DataError(f"{name!r} is not a name of a file: give a text, without NUL")
    if is_url(name):
        return local_copy(os.fspath(name))
    return Path(os.path.expanduser(name)).absolute()


def fixed_directory(pattern: str) -> tuple[str, str]:
    """Splits an absolute pattern into the directory to search and the remaining pattern.

    An existing name is taken literally, even if it contains "[", "*" or "?".
    """
    fixed, *parts = pattern.split("/")
    for number, part in enumerate(parts):
        path = f"{fixed}/{part}"
        if glob.has_magic(part) and not os.path.lexists(path):
            return fixed or "/", "/".join(parts[number:])
        if number < len(parts) - 1:
            fixed = path
    return fixed or "/", glob.escape(parts[-1])


def matching_files(pattern: str) -> list[str]:
    """Returns the paths of the files that an absolute pattern matches, sorted, without duplicates.

    `**` matches directories at any depth. Links to directories are followed, except links to a
    parent of themselves. If a file has several names, the name without links is returned.
    """
    directory, remainder = fixed_directory(pattern)
    names: dict[str, list[str]] = {}
    real_directory = functools.cache(os.path.realpath)
    for path in _expand(directory, remainder.split("/")):
        if os.path.isfile(path):
            parent, name = os.path.split(path)
            real = os.path.join(real_directory(parent), name)
            real = os.path.realpath(path) if os.path.islink(path) else real
            names.setdefault(real, []).append(path)
    return sorted(
        min(paths, key=lambda path: (path != real, path.count("/"), path))
        for real, paths in names.items()
    )


def _expand(directory: str, parts: Sequence[str]) -> Iterator[str]:
    if "**" not in parts:
        yield from glob.iglob(os.path.join(glob.escape(directory), *parts))
        return
    place = parts.index("**")
    bases = [directory]
    if place:
        bases = glob.glob(os.path.join(glob.escape(directory), *parts[:place]))
    for base in bases:
        if base == directory or not _leads_up(base):
            for folder in _folders(base):
                yield from _expand(folder, parts[place + 1 :] or ["*"])


def _folders(base: str) -> Iterator[str]:
    links, seen = [base], set[str]()
    while links:
        for folder, names, _ in os.walk(links.pop()):
            real = os.path.realpath(folder)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            yield folder
            names[:] = [name for name in names if not name.startswith(".")]
            paths = [os.path.join(folder, name) for name in names]
            links += [path for path in paths if os.path.islink(path) and not _leads_up(path)]


def _leads_up(path: str) -> bool:
    around = os.path.join(os.path.realpath(os.path.dirname(path)), "")
    return os.path.islink(path) and around.startswith(os.path.join(os.path.realpath(path), ""))
