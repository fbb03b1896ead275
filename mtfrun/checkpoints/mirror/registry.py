"""The mirrors that this process has opened, for code that knows local directories only."""

from __future__ import annotations

import contextlib
import pathlib
import re
import threading
from collections.abc import Iterable, Iterator

from absl import logging

from mtfrun.checkpoints.mirror import lease
from mtfrun.checkpoints.mirror.copy import WRITER_LOCK, Mirror, scan
from mtfrun.checkpoints.mirror.upload_thread import Uploads
from mtfrun.display import progress
from mtfrun.files import StoreError, Worker, cache_directory, copy_matching, is_url
from mtfrun.files.errors import RunDirError
from mtfrun.files.lock import writer_lock

# A run, with its checkpoints or one of them behind it.
_CHECKPOINT_PATH = re.compile(r"(?P<run>.*?)(?P<below>/checkpoints(\.[0-9]+)?(/ckpt-[0-9.]+)?|)")
_FOLLOW_SECS = 10.0
# How long the last uploads of a training that has failed are tried.
_SHORT_PATIENCE_SECS = 10.0

_open: dict[pathlib.Path, Mirror] = {}
_uploads: dict[pathlib.Path, Uploads] = {}
_opening = threading.Lock()


def local_path(url: str) -> str:
    """Returns the local directory of a URL, whether its mirror is open or not."""
    return str(cache_directory("runs", url))


@contextlib.contextmanager
def reading(url: str, *, follows: bool = False) -> Iterator[str]:
    """Yields a local directory with the files of the run, or runs, at a URL.

    Data of checkpoints are downloaded when they are read. New files, such as the record of a
    command, are uploaded at the end; where that is not allowed, a warning says so. With `follows`
    both sides are brought up to date every few seconds.
    """
    mirror = Mirror(url)
    with progress.waiting(f"downloading {mirror.store.url}"):
        mirror.pull()
    before = set(scan(mirror.path))

    def follow() -> None:
        while not follower.pause(_FOLLOW_SECS):
            try:
                mirror.pull()
                mirror.upload_new(before)
            except (StoreError, RunDirError) as error:
                logging.warning("%s; it is tried again", error)

    follower: Worker[None] = Worker(follow, "follow")
    if follows:
        follower.start()
    is_first = _open.setdefault(mirror.path, mirror) is mirror
    try:
        yield str(mirror.path)
    finally:
        follower.stop(0)
        if is_first:
            del _open[mirror.path]
        try:
            mirror.upload_new(before)
        except StoreError as error:
            logging.warning("%s; new files are only in %s", error, mirror.path)


@contextlib.contextmanager
def writing(url: str, *, downloads_all: bool = False) -> Iterator[str]:
    """Yields the local directory of a run, and uploads changes until the end of the block.

    RunDirError if another process writes the run, StoreError if uploads fail. `downloads_all`: the
    data of all checkpoints, which are otherwise downloaded when they are read.
    """
    mirror = Mirror(url)
    mirror.path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(writer_lock(mirror.path / WRITER_LOCK))
        held = mirror.lease()
        held.acquire()
        stack.callback(held.release)
        with progress.waiting(f"downloading {mirror.store.url}"):
            mirror.begin()
            if downloads_all:
                mirror.fetch(list(mirror.entries))
        uploads = Uploads(mirror, held)
        _open[mirror.path], _uploads[mirror.path] = mirror, uploads
        try:
            yield str(mirror.path)
        except Exception:
            with contextlib.suppress(RunDirError, StoreError):
                uploads.close(patience=_SHORT_PATIENCE_SECS)
            raise
        else:
            uploads.close()
        finally:
            del _open[mirror.path], _uploads[mirror.path]


def local_source(path: str) -> str:
    """Returns the local path of a run, or a checkpoint, at a URL to begin with; others unchanged.

    Its mirror stays open until the process ends. Data of a run's checkpoints are downloaded when
    they are read; of another program's checkpoint all files are.
    """
    if not is_url(path):
        return path
    match = _CHECKPOINT_PATH.fullmatch(path.rstrip("/"))
    assert match is not None
    url, below = match["run"], match["below"]
    with _opening:
        mirror = _open.get(cache_directory("runs", url))
        if mirror is None:
            mirror = Mirror(url)
            with progress.waiting(f"downloading {url}"):
                mirror.pull()
            if not mirror.entries:
                files = copy_matching(f"{path}.*")  # "s3://bucket/model.ckpt-1000"
                if not files:
                    raise RunDirError(f"there is no run and no checkpoint at {path}")
                return str(pathlib.Path(next(iter(files))).parent / path.rpartition("/")[2])
            _open[mirror.path] = mirror
    return f"{mirror.path}{below}"


def url_of(path: str) -> str:
    """Returns the URL of a path in a mirror; other paths unchanged."""
    mirrors = _mirrors_of(pathlib.Path(path))
    return next((f"{mirror.store.url}/{folder}".rstrip("/") for mirror, folder in mirrors), path)


def begin_save(directory: pathlib.Path) -> None:
    """Waits until a mirror of a directory of checkpoints can take another checkpoint."""
    for path, uploads in list(_uploads.items()):
        if directory.is_relative_to(path):
            uploads.begin_save()


def fetch(directory: pathlib.Path, names: Iterable[str]) -> None:
    """Downloads missing files of a directory in a mirror; other directories are ignored."""
    for mirror, folder in _mirrors_of(directory):
        mirror.fetch(f"{folder}{name}" for name in names)


def sizes_in_store(directory: pathlib.Path) -> dict[str, int]:
    """Returns the sizes of the files that a mirror has not downloaded to a directory, by name."""
    return {
        name.removeprefix(folder): entry.bytes
        for mirror, folder in _mirrors_of(directory)
        for name, entry in list(mirror.entries.items())
        if name.startswith(folder) and entry.local is None
    }


def is_leased(directory: pathlib.Path) -> bool:
    """Whether a process, on any machine, writes the run of a directory in a mirror."""
    return any(lease.is_leased(mirror.store, folder) for mirror, folder in _mirrors_of(directory))


def _mirrors_of(directory: pathlib.Path) -> Iterator[tuple[Mirror, str]]:
    for path, mirror in list(_open.items()):
        if directory.is_relative_to(path):
            folder = directory.relative_to(path).as_posix()
            yield mirror, "" if folder == "." else f"{folder}/"
