"""Runs at URLs: a local directory that has the same files, where everything is read and written.

A store has no locks, renames and forced writes. So a run is trained in a local directory, with all
promises that a run directory gives, and a thread of the first process uploads its files, in an
order in which the store, too, is the directory of a killed run at any moment:

* data of a checkpoint; then records and curves; then the checkpoint's manifest. So a manifest in
  the store names files that are there whole.
* Deletions come last: manifests, then data. Data that no manifest names are deleted.

Files are compared with `.mirror.json`, which has the states of both sides when they were last the
same. Names that begin with a dot, and data that no manifest names yet, stay on their side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping

from mtfrun.checkpoints.manifest import DATA_NAME, MANIFEST_NAME, read_manifest
from mtfrun.checkpoints.mirror.lease import Lease
from mtfrun.errors.untrusted import read_json
from mtfrun.files import Store, StoredFile, StoreError, cache_directory, download, exclusive
from mtfrun.files.atomic import atomic_write
from mtfrun.files.errors import RunDirError
from mtfrun.files.lock import is_locked

# A run's limit without data of checkpoints; a sparse file of any size is free for its author.
_MOST_BYTES = 1 << 33
_STATE, _LOCK, _DOWNLOADS = ".mirror.json", ".mirror.lock", ".downloads"
WRITER_LOCK = ".mirror.writer"
"""The lock that a training of a run at a URL holds in the local directory."""

_GENERATION = ".generation"
# How many are remembered: the generation of a start that was killed is not in the store.
_GENERATIONS = 20
_CHECKPOINTS = "checkpoints"
_BELOW_CHECKPOINTS = r"(?P<folder>(?s:.*/)?checkpoints(?:\.[0-9]+)?)/"
_OF_CHECKPOINTS = re.compile(_BELOW_CHECKPOINTS + "[^/]+")
_DATA = re.compile(_BELOW_CHECKPOINTS + DATA_NAME.pattern)
_MANIFEST = re.compile(_BELOW_CHECKPOINTS + MANIFEST_NAME.pattern)
_TEMPORARY_DIRECTORY = re.compile(r"ckpt-.*_temp\w*")

State = tuple[int, int, int, int]
"""Inode, size, and times of the last changes of a local file."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in the store, and the local file that was the same; None if it was not downloaded."""

    version: str
    bytes: int
    local: State | None = None


@dataclasses.dataclass(frozen=True)
class SavedManifest:
    """A manifest as it was read: `files` are names below the run; None if it is damaged."""

    state: State
    content: bytes
    files: tuple[str, ...] | None


class Mirror:
    """The local directory of a run, or of several runs below each other, at a URL.

    Attributes:
      path: the local directory.
      entries: known entries of the files in the store, by name.
    """

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.path = cache_directory("runs", self.store.url)
        self.entries: dict[str, Entry] = {}
        self._place, self._generations = secrets.token_hex(8), list[str]()
        self._seen: set[str] = set()  # names that were here
        self._added: set[str] = set()  # files of commands that read the run
        self._reads_only, self._writes = False, False

    def __repr__(self) -> str:
        return f"Mirror({self.store.url!r})"

    def lease(self) -> Lease:
        """The caller holds `WRITER_LOCK` of the local directory."""
        with self._exclusive():
            self._save()  # the place
        return Lease(self.store, self._place)

    def begin(self) -> None:
        """Does what `pull` does for a training that holds the lease, which begins a generation.

        Until another machine trains the run, a later training here continues from local files that
        were not uploaded.
        """
        with self._exclusive():
            self._writes = True
            self._reconcile()
            token = secrets.token_hex(8)
            self._generations = [*self._generations[-_GENERATIONS:], token]
            self._save()
            self.store.write(_GENERATION, token.encode())

    def pull(self) -> None:
        """Makes the local directory the same as the store, except files not uploaded yet.

        Local changes are discarded if another machine has trained the run since. Data of
        checkpoints are not downloaded: see `fetch`. No-op while a process on this machine trains
        the run.
        """
        with self._exclusive():
            self._reads_only = is_locked(self.path / WRITER_LOCK)
            if not self._reads_only:
                self._reconcile()

    def _reconcile(self) -> None:
        shutil.rmtree(self.path / _DOWNLOADS, ignore_errors=True)
        generation = self.store.read(_GENERATION)
        is_same = generation is not None and generation.decode() in self._generations
        stored, local = self.store.files(), scan(self.path)
        steps = [_save_of(name)[1] for name in local if _MANIFEST.fullmatch(name)]
        if generation is None and self._generations and steps:
            raise RunDirError(
                f"{self.store.url} is empty, and {self.path} has its run with a checkpoint of step "
                f"{max(steps)}: mount or restore the store; to begin at step 0, move that copy away"
            )
        names = []
        for name in {*stored, *self.entries, *local}:
            file, entry, state = stored.get(name), self.entries.get(name), local.get(name)
            # Files of commands that read a run have no generation before they are uploaded.
            is_of_reader = not (self._writes or _OF_CHECKPOINTS.fullmatch(name) or entry)
            is_kept = is_same or is_of_reader or name in self._added
            if state is not None and is_kept and (entry is None or entry.local != state):
                continue
            if file is None:
                self._remove(name)
                self.entries.pop(name, None)
            elif entry is None or state is None or entry != Entry(file.version, file.bytes, state):
                self._remove(name)
                self.entries[name] = Entry(file.version, file.bytes)
                names += [] if _DATA.fullmatch(name) else [name]
        self._download(names)
        self._seen = set(scan(self.path))
        self._save()

    def fetch(self, names: Iterable[str]) -> None:
        """Downloads files that are in the store and not here."""
        with self._exclusive():
            stored = [name for name in names if name in self.entries]
            missing = [name for name in stored if not os.path.lexists(self.path / name)]
            try:
                self._download(missing)
            except StoreError:
                if self._writes or self._reads_only:
                    raise
                self._reconcile()  # a trainer has deleted them, or the store fails again
            if missing:
                self._save()

    def upload_changes(self, lease: Lease) -> None:
        """Uploads local changes since the last call, deletions included."""
        local = scan(self.path)
        manifests = self._read_manifests(local)
        unsent = [name for name in manifests if not self._is_same(name, local[name])]
        complete = [name for name in unsent if self._upload_data(name, manifests[name])]
        late = []  # records of checkpoints, which name one
        for name in sorted(local, key=lambda name: local[name][2]):
            if not _OF_CHECKPOINTS.fullmatch(name):
                self._upload(name, local[name])
            elif not (_DATA.fullmatch(name) or _MANIFEST.fullmatch(name)):
                late.append(name)
        lease.check()
        for name in complete:
            self.store.write(name, manifests[name].content)
            self._note(name, manifests[name].state)
        for name in late:
            self._upload(name, local[name])
        self._seen |= local.keys()
        if len(complete) == len(unsent):
            self._delete_missing(manifests)
        self._save()

    def has_new_checkpoint(self) -> bool:
        """Lists checkpoints only, since this is called twice a second."""
        return any(
            MANIFEST_NAME.fullmatch(name) and not self._is_same(f"{_CHECKPOINTS}/{name}", state)
            for name, state in scan(self.path / _CHECKPOINTS).items()
        )

    def upload_new(self, before: Collection[str]) -> None:
        """Uploads files that appeared since `before`, outside of checkpoints; never replaces.

        For commands that read a run: the records of commands, curves of an evaluation.
        """
        with self._exclusive():
            if is_locked(self.path / WRITER_LOCK):
                return  # it uploads them
            local = scan(self.path)
            new = [n for n in local if n not in before and not _OF_CHECKPOINTS.fullmatch(n)]
            stored = self.store.files() if new else {}
            for name in new:
                if name not in stored or name in self._added:
                    self._upload(name, local[name])
                    self._added.add(name)
            if new:
                self._save()

    def _is_same(self, name: str, state: State) -> bool:
        entry = self.entries.get(name)
        return entry is not None and entry.local == state

    def _upload(self, name: str, state: State) -> bool:
        """Returns False if the file is gone."""
        if not self._is_same(name, state):
            try:
                self.store.upload(self.path / name, name)
            except FileNotFoundError:
                return False
            self._note(name, state)
        return True

    def _note(self, name: str, state: State) -> None:
        file = self.store.describe(name) or StoredFile(0, "")
        self.entries[name] = Entry(file.version, file.bytes, state)

    def _upload_data(self, name: str, manifest: SavedManifest) -> bool:
        """Uploads what a manifest names; False if that is not all here or in the store."""
        for file in manifest.files or ():
            try:
                state = state_of(self.path / file)
            except FileNotFoundError:
                if file not in self.entries:
                    return False
                continue
            is_replaced = file in self.entries and not self._is_same(file, state)
            if is_replaced and name in self.entries:
                # Its manifest must not name the new file.
                self.store.delete([name])
                del self.entries[name]
            if not self._upload(file, state):
                return False
        return True

    def _read_manifests(self, local: Mapping[str, State]) -> dict[str, SavedManifest]:
        """Returns the manifests of checkpoints, the newest first; gone ones are left out."""
        manifests = {}
        names = [name for name in local if _MANIFEST.fullmatch(name)]
        for name in sorted(names, key=lambda name: _save_of(name)[1], reverse=True):
            path, (folder, step) = self.path / name, _save_of(name)
            with contextlib.suppress(FileNotFoundError):
                content, files = path.read_bytes(), None
                with contextlib.suppress(RunDirError):
                    saved = read_manifest(path.parent, step).files
                    files = tuple(f"{folder}/{file}" for file in sorted(saved))
                if state_of(path) == local[name]:  # else it was replaced meanwhile
                    manifests[name] = SavedManifest(local[name], content, files)
        return manifests

    def _delete_missing(self, manifests: Mapping[str, SavedManifest]) -> None:
        """Deletes files that were here before, and data that no manifest names."""
        named = {file for manifest in manifests.values() for file in manifest.files or ()}
        unreadable = {_save_of(name) for name, saved in manifests.items() if saved.files is None}
        gone, gone_data = [], []
        for name in list(self.entries):
            if _DATA.fullmatch(name):
                if name not in named and _save_of(name) not in unreadable:
                    gone_data.append(name)
            elif name in self._seen and not os.path.lexists(self.path / name):
                gone.append(name)
        gone += gone_data
        self.store.delete(gone)
        for name in gone:
            del self.entries[name]

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / name).unlink()

    def _download(self, names: Iterable[str]) -> None:
        folder, paths = self.path / _DOWNLOADS, {name: self.path / name for name in names}
        if not paths:
            return
        folder.mkdir(exist_ok=True)
        sizes = {name: self.entries[name].bytes for name in paths}
        records = sum(size for name, size in sizes.items() if not _DATA.fullmatch(name))
        if records > _MOST_BYTES:
            raise RunDirError(
                f"{self.store.url} has {records:,} bytes besides data of checkpoints, more than "
                f"{_MOST_BYTES:,}: delete files that are not of the run"
            )
        download(self.store, sizes, paths, folder)
        for name, path in paths.items():
            self.entries[name] = dataclasses.replace(self.entries[name], local=state_of(path))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Holds a lock of this machine, for one process at a time to change `.mirror.json`."""
        with exclusive(self.path / _LOCK):
            if not self._writes:  # else no other process changes it
                self._load()
            yield

    def _load(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = read_json(self.path / _STATE)
            self._place, self._generations = saved["place"], list(saved["generations"])
            self._added = set(saved["added"])
            self.entries = {
                name: Entry(version, size, None if local is None else tuple(local))
                for name, (version, size, local) in saved["files"].items()
            }

    def _save(self) -> None:
        if self._reads_only:
            return
        state = {
            "url": self.store.url,
            "place": self._place,
            "generations": self._generations,
            "added": sorted(self._added),
            # A thread may change them meanwhile.
            "files": {n: dataclasses.astuple(entry) for n, entry in list(self.entries.items())},
        }
        atomic_write(self.path / _STATE, json.dumps(state))


def scan(directory: pathlib.Path) -> dict[str, State]:
    """Returns the files that a mirror has, by name; links and hidden names are left out."""
    states = {}
    for folder, names, files in os.walk(directory):
        names[:] = [n for n in names if n[0] != "." and not _TEMPORARY_DIRECTORY.fullmatch(n)]
        for path in (pathlib.Path(folder, file) for file in files if file[0] != "."):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                states[path.relative_to(directory).as_posix()] = state_of(path)
    return states


def state_of(path: pathlib.Path) -> State:
    """IsADirectoryError unless it is a regular file."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _save_of(name: str) -> tuple[str, int]:
    """Returns the folder and the step of a manifest or of data."""
    match = _MANIFEST.fullmatch(name) or _DATA.fullmatch(name)
    assert match is not None
    return match["folder"], int(match["step"])
