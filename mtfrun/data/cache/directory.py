"""Directories of caches: built beside their place and renamed, so complete or absent; manifests.

A manifest has the sources of a cache and the hashes of its files. Files are compared with their
hashes when a cache is first opened on a machine, and again whenever one may have changed:
`checked.json` stores each file's inode, size and times at the last comparison. A copy has another
inode, and an inode's time of last change (ctime) cannot be set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mtfrun.data.errors import DataError
from mtfrun.data.files import LARGEST_CONTENT, absolute_path, try_to_write
from mtfrun.display import progress
from mtfrun.errors import is_shortage
from mtfrun.errors.differences import changes, list_changes
from mtfrun.errors.untrusted import hash_of_file, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.files import lock_file

T = TypeVar("T")
MANIFEST = "manifest.json"
_CHECKED = "checked.json"
# Manifest entries: the SHA-256 of every file by name, and the SHA-256 of all other entries.
FILES, _SUM = "files", "sum"
# Maximum characters of a reason in a message.
_LONGEST_REASON = 200
# Errors raised by a manifest, an array or records with unexpected content; RecursionError for deep
# nesting, OverflowError for infinity, the last ones by headers of arrays.
DAMAGE_ERRORS = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RuntimeError),
    *(RecursionError, OverflowError, SyntaxError, tokenize.TokenError),
)
# Names of caches, see `cache_path`, and of directories in which caches are built.
_CACHE = re.compile(r"\.?(?P<name>[^.].*-[0-9a-f]{16})(\.\w+(-replaced)?)?")


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """The caches to build, and their place.

    Attributes:
      tasks: a regular expression that the whole name of a task matches.
      cache_dir: directory of all caches; None for each task's directory.
      overwrite: whether to rebuild existing caches.
      anew: whether to compare caches with their hashes even if they have not changed.
    """

    tasks: str = ".*"
    cache_dir: str | None = None
    overwrite: bool = False
    anew: bool = False

    def includes(self, title: str) -> bool:
        return re.fullmatch(self.tasks, title) is not None


EVERY_CACHE = CacheChoice()


def resolve_cache_dir(cache_dir: str | None) -> Path:
    return absolute_path(cache_dir or os.environ.get("MTFRUN_CACHE_DIR") or "~/.cache/mtfrun")


def cache_path(cache_dir: str | None, name: str, split: str, origin: object) -> Path:
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    return resolve_cache_dir(cache_dir) / _file_name(name) / f"{_file_name(split)}-{digest}"


def open_or_build(
    place: Callable[[object], Path],
    origin: Callable[[], Mapping[str, Any]],
    build: Callable[[Path], Mapping[str, Any]],
    open_files: Callable[[Path, Mapping[str, Any]], T],
    *,
    overwrite: bool = False,
) -> T:
    """Opens a cache, after building it if it is missing or damaged.

    Waits while another process builds the same cache.

    Args:
      place: a function of an origin that returns the cache's directory.
      origin: JSON that identifies the sources, made before and after the build.
      build: writes the files into an empty directory, and returns the counts for the manifest.
      open_files: may raise DamagedCacheError.
    """
    before = mask_json(origin())
    directory = place(before)
    if not overwrite:
        with contextlib.suppress(DamagedCacheError):  # damaged or missing
            return open_files(directory, before)
    lock = directory.with_name(f".{directory.name}.lock")
    work = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    with writing(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(lock):  # which the system releases when the process ends
            if not overwrite:
                try:
                    return open_files(directory, before)
                except DamagedCacheError as error:
                    if directory.exists():
                        text = f"the cache {directory} is damaged ({error.reason})"
                        progress.note(progress.warning(f"{text}: it is built anew"))
            _remove_partial_files(directory)
            work.mkdir()
            try:
                counts = build(work)
                if differing := changes(before, mask_json(origin())):
                    text = f"while their cache was built: {list_changes(differing, most=1)}"
                    raise DataError(f"the data changed {text}: run the command again")
                write_manifest(work, {**counts, **before})
                replaced = work.with_name(f"{work.name}-replaced")
                if directory.exists():  # rename cannot replace a directory that is not empty
                    directory.rename(replaced)
                work.rename(directory)
                shutil.rmtree(replaced, ignore_errors=True)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return open_files(directory, before)


def cache_directories(cache_dir: str | None) -> list[Path]:
    """Returns all directories of caches, sorted, including killed builds' partial ones."""
    root = resolve_cache_dir(cache_dir)
    if not root.exists():
        return []
    try:
        tasks = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
        paths = [path for task in tasks for path in task.iterdir()]
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror or error}") from error
    return sorted(path for path in paths if _CACHE.fullmatch(path.name) and path.is_dir())


def remove_cache(directory: Path) -> bool:
    """Removes a cache, or a killed build's partial files; returns False if it is being built."""
    # Processes that read it are not disturbed: mapped files exist until they are unmapped.
    match = _CACHE.fullmatch(directory.name)
    lock = directory.with_name(f".{match['name'] if match else directory.name}.lock")
    with writing(directory), contextlib.suppress(BlockingIOError), lock_file(lock, waits=False):
        shutil.rmtree(directory)
        return True
    return False


class DamagedCacheError(DataError):
    """The files of a cache differ from those written; `reason` does not name its directory."""

    def __init__(self, directory: Path, reason: object):
        text = f"{MANIFEST} has no {reason}" if isinstance(reason, KeyError) else str(reason)
        self.reason = " ".join(text.split())[:_LONGEST_REASON]
        remedy = "remove the directory, and it is built anew"
        super().__init__(f"the cache {directory} is damaged ({self.reason}): {remedy}")


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Turns errors of damaged files into DamagedCacheError; others of the system into DataError."""
    try:
        yield
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedCacheError(directory, f"{error.filename} is missing") from error
    except OSError as error:
        # No errno: from array_record. EINVAL, EISDIR: not a regular file.
        if error.errno in (None, errno.EINVAL, errno.EISDIR):
            raise DamagedCacheError(directory, error) from error
        raise _unreadable(directory, error) from error
    except DAMAGE_ERRORS as error:
        if is_shortage(error):
            raise _unreadable(directory, error) from error
        raise DamagedCacheError(directory, error) from error


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # An error of write() names no file. Others are of the source that is read.
        name = Path(str(error.filename or directory))
        is_elsewhere = not name.is_relative_to(directory.parent) and name not in directory.parents
        if is_elsewhere or isinstance(error, ConnectionError | TimeoutError):
            raise
        remedy = "make room there, or name another place with MTFRUN_CACHE_DIR"
        message = f"cannot write the cache {directory}: {error.strerror or error}; {remedy}"
        raise DataError(message) from error


def write_manifest(directory: Path, entries: Mapping[str, Any]) -> None:
    names = sorted(path.name for path in directory.iterdir())
    sums = {name: hash_of_file(directory / name) for name in names}
    manifest = {**entries, FILES: sums}
    manifest[_SUM] = _sum_of(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _store_states(directory, {name: _state(directory / name) for name in (*names, MANIFEST)})


def read_manifest(
    directory: Path,
    files: Iterable[str],
    check: Callable[[dict[str, Any]], None] | None = None,
    *,
    origin: Mapping[str, Any] | None = None,
    anew: bool = False,
) -> dict[str, Any]:
    """Returns a cache's manifest, after comparing its files with their hashes if necessary.

    Args:
      check: a check of the content after the comparison, which may raise DamagedCacheError.
      origin: the origin that the cache must have.
      anew: whether to compare files even if they have not changed.
    """
    manifest: dict[str, Any]
    with reading(directory):
        manifest = json.loads(read_regular(directory / MANIFEST, LARGEST_CONTENT))
        if manifest.pop(_SUM) != _sum_of(manifest):
            raise DamagedCacheError(directory, f"{MANIFEST} was changed")
        for name, value in json.loads(json.dumps(origin or {})).items():
            if manifest[name] != value:
                raise DamagedCacheError(directory, f"{MANIFEST} belongs to another cache: {name}")
        sums = {name: manifest[FILES][name] for name in files}
        states = {name: _state(directory / name) for name in (*sums, MANIFEST)}
        stored = None
        with contextlib.suppress(OSError, *DAMAGE_ERRORS):
            stored = json.loads(read_regular(directory / _CHECKED, LARGEST_CONTENT))
        if anew or states != stored:
            size = sum((directory / name).stat().st_size for name in sums)
            with progress.Work(f"checking the cache {directory.name}", size, "B") as work:
                for name, expected in sums.items():
                    if hash_of_file(directory / name, work.advance) != expected:
                        reason = f"{name} was changed: its SHA-256 differs"
                        raise DamagedCacheError(directory, reason)
            if check is not None:
                check(manifest)
            _store_states(directory, states)
    with contextlib.suppress(OSError):  # records the time for `last_use`
        os.utime(directory / _CHECKED, follow_symlinks=False)
    return manifest


def last_use(directory: Path) -> float:
    """Returns the Unix time at which a cache was last opened, or else its build started."""
    path = directory / _CHECKED
    return (path if path.exists() else directory).stat().st_mtime


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".") or "_"


def _remove_partial_files(directory: Path) -> None:
    """Removes partial files of this cache, and of caches that no process builds now."""
    for partial in directory.parent.glob(".*.*"):
        name = partial.name[1:].rpartition(".")[0]
        lock = partial.with_name(f".{name}.lock")
        if partial.is_dir() and not partial.is_symlink() and lock.exists():
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                if name != directory.name:  # this cache's lock is held
                    stack.enter_context(lock_file(lock, waits=False))
                shutil.rmtree(partial, ignore_errors=True)


def _unreadable(directory: Path, error: Exception) -> DataError:
    text = " ".join(str(error).split())[:_LONGEST_REASON]
    remedy = "raise the limit (ulimit -a), or correct the permissions"
    return DataError(f"the cache {directory} cannot be read: {text}; it is not damaged: {remedy}")


def _sum_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _store_states(directory: Path, states: Mapping[str, list[int]]) -> None:
    # If this cannot be written, the files are compared each time.
    try_to_write(directory / _CHECKED, lambda beside: beside.write_text(json.dumps(states)))
