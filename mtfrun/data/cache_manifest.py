"""Manifests of caches: the sources of a cache, and the hashes of its files.

Files are compared with their hashes when a cache is first opened on a machine, and again whenever
one may have changed: `checked.json` stores each file's inode, size and times at the last
comparison. A copy has another inode, and an inode's time of last change (ctime) cannot be set.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtfrun.data.errors import DataError
from mtfrun.data.files import LARGEST_CONTENT
from mtfrun.display import progress
from mtfrun.errors import is_shortage
from mtfrun.untrusted import read_regular

MANIFEST = "manifest.json"
_CHECKED = "checked.json"
# Manifest entries: the SHA-256 of every file by name, and the SHA-256 of all other entries.
_FILES, _SUM = "files", "sum"
_BLOCK = 1 << 20
# Maximum characters of a reason in a message.
_LONGEST_REASON = 200
# Errors raised by a manifest or an array with unexpected content; the last two are for deep nesting
# and infinity.
_DAMAGE_ERRORS = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(RecursionError, OverflowError),
)


class DamagedCacheError(DataError):
    """The files of a cache differ from those written; `reason` does not name its directory."""

    def __init__(self, directory: Path, reason: object):
        text = f"{MANIFEST} has no {reason}" if isinstance(reason, KeyError) else str(reason)
        self.reason = " ".join(text.split())[:_LONGEST_REASON]
        super().__init__(
            f"the cache {directory} is damaged ({self.reason}): remove the directory, and it is "
            "built anew"
        )


@contextlib.contextmanager
def reading(directory: Path, *damage: type[Exception]) -> Iterator[None]:
    """Turns errors of damaged files, and `damage`, into DamagedCacheError; else DataError."""
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
    except _DAMAGE_ERRORS + damage as error:
        if is_shortage(error):
            raise _unreadable(directory, error) from error
        raise DamagedCacheError(directory, error) from error


def _unreadable(directory: Path, error: Exception) -> DataError:
    text = " ".join(str(error).split())[:_LONGEST_REASON]
    return DataError(
        f"the cache {directory} cannot be read: {text}; it is not damaged: raise the limit (ulimit "
        "-a), or correct the permissions"
    )


def write_manifest(directory: Path, entries: Mapping[str, Any]) -> None:
    names = sorted(path.name for path in directory.iterdir())
    sums = {name: _sha256(directory / name) for name in names}
    manifest = {**entries, _FILES: sums}
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

    `check` checks the content after the comparison and may raise DamagedCacheError. `origin` is
    what the cache must be made from. `anew` compares files even if they have not changed.
    """
    manifest: dict[str, Any]
    with reading(directory):
        manifest = json.loads(read_regular(directory / MANIFEST, LARGEST_CONTENT))
        if manifest.pop(_SUM) != _sum_of(manifest):
            raise DamagedCacheError(directory, f"{MANIFEST} was changed")
        for name, value in json.loads(json.dumps(origin or {})).items():
            if manifest[name] != value:
                raise DamagedCacheError(directory, f"{MANIFEST} belongs to another cache: {name}")
        sums = {name: manifest[_FILES][name] for name in files}
        states = {name: _state(directory / name) for name in (*sums, MANIFEST)}
        if anew or states != _stored_states(directory):
            _compare(directory, sums)
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


def file_sums(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    sums: Mapping[str, str] = manifest[_FILES]
    return sums


def _compare(directory: Path, sums: Mapping[str, str]) -> None:
    size = sum((directory / name).stat().st_size for name in sums)
    with progress.Work(f"checking the cache {directory.name}", size, "B") as work:
        for name, expected in sums.items():
            if _sha256(directory / name, work.advance) != expected:
                raise DamagedCacheError(directory, f"{name} was changed: its SHA-256 differs")


def _sha256(path: Path, advance: Callable[[float], None] = lambda _: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _sum_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _stored_states(directory: Path) -> object:
    try:
        return json.loads(read_regular(directory / _CHECKED, LARGEST_CONTENT))
    except (OSError, *_DAMAGE_ERRORS):
        return None


def _store_states(directory: Path, states: Mapping[str, list[int]]) -> None:
    # If this cannot be written, the files are compared each time.
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(dir=directory, prefix=".checked-") as work,
    ):
        beside = Path(work) / _CHECKED
        beside.write_text(json.dumps(states))
        beside.rename(directory / _CHECKED)
