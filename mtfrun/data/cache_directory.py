"""Directories of caches, built beside their place and renamed, so complete or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mtfrun.data.cache_manifest import DamagedCacheError, write_manifest
from mtfrun.data.errors import DataError
from mtfrun.data.files import absolute_path
from mtfrun.differences import changes, list_changes
from mtfrun.display import progress
from mtfrun.untrusted import open_to_write

T = TypeVar("T")
# Matches names of caches, see `cache_path`, and of directories in which caches are built.
_CACHE = re.compile(r"\.?(?P<name>[^.].*-[0-9a-f]{16})(\.\w+(-replaced)?)?")


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """Which caches to build, and where.

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
    chosen = cache_dir or os.environ.get("MTFRUN_CACHE_DIR") or "~/.cache/mtfrun"
    return absolute_path(chosen)


def cache_path(cache_dir: str | None, name: str, split: str, origin: object) -> Path:
    """Returns the directory of a cache, named after a hash of its origin's JSON."""
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    return resolve_cache_dir(cache_dir) / _file_name(name) / f"{_file_name(split)}-{digest}"


def open_or_build(
    place: Callable[[object], Path],
    origin: Callable[[], Mapping[str, Any]],
    build: Callable[[Path, Path], Mapping[str, Any]],
    open_files: Callable[[Path, Mapping[str, Any]], T],
    *,
    overwrite: bool = False,
) -> T:
    """Opens a cache, after building it if it is missing or damaged.

    Waits while another process builds the same cache. `place` returns the cache's directory for an
    origin, JSON that identifies the sources, which is made before and after the build. `build`
    writes the files into an empty directory and returns the counts for the manifest; its second
    argument is the cache's directory. `open_files` may raise DamagedCacheError. Raises DataError if
    the cache cannot be written, or a source changes during the build.
    """
    before = origin()
    directory = place(before)
    if not overwrite:
        with contextlib.suppress(DamagedCacheError):  # damaged or missing
            return open_files(directory, before)
    with _lock(directory):
        if not overwrite:
            try:
                return open_files(directory, before)
            except DamagedCacheError as error:
                if directory.exists():
                    text = f"the cache {directory} is damaged ({error.reason}): it is built anew"
                    progress.note(progress.warning(text))
        _remove_partial_files(directory)
        with _work(directory) as work:
            counts = build(work, directory)
            _check_unchanged(before, origin())
            with writing(directory):
                write_manifest(work, {**counts, **before})
                _replace(directory, work)
    return open_files(directory, before)


def cache_directories(cache_dir: str | None) -> list[Path]:
    """Returns all directories of caches, sorted, including killed builds' partial ones."""
    root = resolve_cache_dir(cache_dir)
    if not root.exists():
        return []
    try:
        tasks = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
        found = [path for task in tasks for path in task.iterdir()]
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror or error}") from error
    return sorted(path for path in found if _CACHE.fullmatch(path.name) and path.is_dir())


def remove_cache(directory: Path) -> bool:
    """Removes a cache, or a killed build's partial files; returns False if it is being built.

    Processes that read it are not disturbed: mapped files exist until they are unmapped.
    """
    match = _CACHE.fullmatch(directory.name)
    lock = directory.with_name(f".{match['name'] if match else directory.name}.lock")
    with writing(directory), open_to_write(lock, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(directory)
        return True


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the cache {directory}: {error.strerror or error}; make room there, or "
            "name another place with MTFRUN_CACHE_DIR"
        ) from error


def _check_unchanged(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    differing = changes(before, after)
    if differing:
        raise DataError(
            f"the data changed while their cache was built: {list_changes(differing, most=1)}: run "
            "the command again once nothing writes to them"
        )


@contextlib.contextmanager
def _work(directory: Path) -> Iterator[Path]:
    with writing(directory):
        work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(directory: Path, work: Path) -> None:
    work.chmod(0o777 & ~_umask())  # mkdtemp's directories are for one user only
    replaced = work.with_name(f"{work.name}-replaced")
    if directory.exists():  # rename cannot replace a directory that is not empty
        directory.rename(replaced)
    work.rename(directory)
    shutil.rmtree(replaced, ignore_errors=True)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".") or "_"


def _umask() -> int:
    mask = os.umask(0o022)  # can only be read by setting it
    os.umask(mask)
    return mask


def _remove_partial_files(directory: Path) -> None:
    """Removes partial files of this cache, and of caches that nobody builds now."""
    for partial in directory.parent.glob(".*.*"):
        name = partial.name[1:].rpartition(".")[0]
        lock = partial.with_name(f".{name}.lock")
        if partial.is_dir() and not partial.is_symlink() and lock.exists():
            with contextlib.suppress(OSError), lock.open() as file:
                if name != directory.name:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Holds an exclusive lock, which the system releases when the process ends."""
    with writing(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        file = open_to_write(directory.with_name(f".{directory.name}.lock"), "rb+")
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        yield
