"""Copies of data at URLs on this machine, in $MTFRUN_CACHE_DIR/stores, read in their place.

A copy is as new as its file in the store when a process first asks for it, and is not looked after
again by that process: a file stays the same from the beginning to the end.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import read_json
from mtfrun.errors.url_secrets import mask_url
from mtfrun.files.lock import exclusive
from mtfrun.files.store import Store, StoredFile, StoreError, reveal_url

# "https:", "" and the host.
_PARTS_OF_HOST = 3
_LONGEST_NAME = 100
_STATE, _LOCK, _DOWNLOADS = ".copies.json", ".copies.lock", ".downloads"


class Origin(NamedTuple):
    """A file in a store, which a copy is as new as; the URL has no passwords."""

    url: str
    file: StoredFile


_origins: dict[str, Origin] = {}
_names: dict[pathlib.Path, str] = {}  # in the store, by path of the copy


def cache_directory(kind: str, url: str) -> pathlib.Path:
    """Returns the directory of a URL's copies; its name is the last part of the URL."""
    chosen = os.environ.get("MTFRUN_CACHE_DIR") or "~/.cache/mtfrun"
    root = pathlib.Path(os.path.expanduser(chosen)).absolute()
    url = mask_url(url.rstrip("/"))
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    last = url.partition("?")[0].rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-_LONGEST_NAME:].lstrip(".")
    return root / "stores" / kind / digest / (name or "_")


def download(
    store: Store, sizes: Mapping[str, int], paths: Mapping[str, pathlib.Path], folder: pathlib.Path
) -> None:
    """Writes files, by name, to paths of the disk of `folder`, each whole or not at all.

    InputError if there is no room, StoreError. The folder, for files that are not whole, is the
    caller's alone.
    """
    size, free = sum(sizes[name] for name in paths), shutil.disk_usage(folder).free
    if size > free:
        room = f"{folder} has room for {free:,} of {size:,} bytes"
        raise InputError(f"{store.url}: {room}; name another place with MTFRUN_CACHE_DIR")
    parts = {name: folder / str(number) for number, name in enumerate(paths)}
    store.download(parts)
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts[name].replace(path)


def origin_of(path: pathlib.Path) -> Origin | None:
    """Returns the file in a store that `path` is a copy of, made by this process or for it."""
    return _origins.get(str(path))


@functools.cache
def copy_matching(pattern: str) -> dict[str, str]:
    """Returns {path of the copy: name below the pattern's fixed part} of a URL's files, sorted."""
    fixed, parts = list[str](), reveal_url(pattern).split("/")
    # A password may have the characters of patterns.
    while len(parts) > 1 and (len(fixed) < _PARTS_OF_HOST or not glob.has_magic(parts[0])):
        fixed.append(parts.pop(0))
    store, name = Store("/".join(fixed)), "/".join(parts)
    if glob.has_magic(name):
        files = store.glob(name)
    else:
        file = store.describe(name)
        files = {} if file is None else {name: file}
    directory = _copy(store, files)
    return {str(directory / _local(name)): _local(name) for name in sorted(files)}


@functools.cache
def local_copy(url: str) -> pathlib.Path:
    """Returns the copy of a file, or of a folder with all below it."""
    url = reveal_url(url)
    path, query, values = url.partition("?")
    above, _, name = path.rstrip("/").rpartition("/")
    name += query + values
    if not above.endswith("/"):  # else the name is a bucket's
        store = Store(above)
        file = store.describe(name)
        if file is not None:
            return _copy(store, {name: file}) / _local(name)
    store = Store(url)
    return _copy(store, store.files())


def _local(name: str) -> str:
    """Returns a name without its query, which may be a signature."""
    return name.partition("?")[0]


def _copy(store: Store, files: Mapping[str, StoredFile]) -> pathlib.Path:
    directory = cache_directory("data", store.url)
    for name in files:
        former = _names.setdefault(directory / _local(name), name)
        if former != name:
            urls = f"{store.url}/{former} and another URL differ only in their queries"
            raise StoreError(f"{urls}: copy one of them to a file of another name")
    with exclusive(directory / _LOCK):
        states: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            states = read_json(directory / _STATE)
        downloads = directory / _DOWNLOADS
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        missing = {}
        for name, file in files.items():
            path = directory / _local(name)
            is_whole = path.is_file() and path.stat().st_size == file.bytes
            if not is_whole or states.get(_local(name)) != [*file]:
                missing[name] = path
        with progress.waiting(f"downloading {len(missing)} file(s) of {store.url}"):
            download(store, {name: files[name].bytes for name in missing}, missing, downloads)
        if missing:
            states |= {_local(name): [*files[name]] for name in missing}
            (downloads / _STATE).write_text(json.dumps(states))
            (downloads / _STATE).replace(directory / _STATE)
    for name, file in files.items():
        path = directory / _local(name)
        origin = Origin(mask_url(f"{store.url}/{name}"), file)
        _origins.update(dict.fromkeys(map(str, (path, path.resolve())), origin))
    return directory
