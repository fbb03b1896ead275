"""The files below one URL."""

from __future__ import annotations

import contextlib
import datetime
import errno
import logging
import os
import pathlib
import posixpath
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, is_special
from mtfrun.errors.url_secrets import mask_parts, mask_url

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
# Packages of the protocols that the extra `stores` brings.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
# What file systems call that which changes with a file's content, the best first.
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "mtime", "created"),
    *("LastModified", "last_modified", "mod_time", "modified"),
)
_LONGEST_REASON = 200
_INSTALL = "pip install mtfrun[stores] (fsspec, s3fs, gcsfs)"


class StoreError(InputError):
    """A store does not answer, or refuses; the message names the URL."""


class StoredFile(NamedTuple):
    """`version` differs for every content, as far as the store tells."""

    bytes: int
    version: str


def is_url(name: object) -> TypeGuard[str]:
    """Whether a name begins with a protocol, such as "s3://", or several, which `Store` refuses.

    >>> is_url("s3://bucket/run"), is_url("/tmp/run"), is_url(None)
    (True, False, False)
    """
    return isinstance(name, str) and _URL.match(name) is not None


URLS = "MTFRUN_URLS"
"""The environment variable with the whole URLs, separated by spaces, that records have masked."""

_MASKED = re.compile(r"[/:]\*{3}@|[?&#=]\*{3}(?![^&#\s'\"])")


def has_masked_urls(text: str) -> bool:
    """Whether a text has a URL that `mask_urls` has changed."""
    return _MASKED.search(text) is not None


def reveal_url(url: str) -> str:
    """Returns the URL of `URLS` that a masked one stands for; other URLs unchanged."""
    if not has_masked_urls(url):
        return url
    for whole in os.environ.get(URLS, "").split():
        if mask_url(whole) == mask_url(url):
            return whole
    raise InputError(
        f"{url}: its passwords (***) are not recorded: set {URLS} to the whole URL in the "
        "environment, or give the setting again"
    )


class Store:
    """Files by their names below a URL, such as "checkpoints/ckpt-300.json".

    A file is there whole, or not at all: objects are written by one request, and file systems with
    a rename get a file under another name first. What a store raises is a StoreError. In a
    directory of this machine only regular files are read and replaced, and no links followed.

    Attributes:
      url: the URL without passwords, see url_secrets.py.
    """

    def __init__(self, url: str) -> None:
        self.url = mask_url(url.rstrip("/"))
        self._whole_url = reveal_url(url.rstrip("/"))
        self._system, root = _file_system(self._whole_url)
        self._root = root.rstrip("/")
        # Object stores, whose file systems are asynchronous, copy and delete, and so does the
        # generic method.
        import fsspec  # noqa: PLC0415 - takes a tenth of a second

        self._is_local = "file" in fsspec.utils.stringify_path(self._system.protocol)
        is_generic = type(self._system).mv is fsspec.AbstractFileSystem.mv
        self._renames = not (is_generic or self._system.async_impl)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def files(self) -> dict[str, StoredFile]:
        """Returns all files below the URL that can have their names on this machine."""
        return self._list(self._system.find, self._root)

    def glob(self, pattern: str) -> dict[str, StoredFile]:
        """Returns the files that a pattern matches; `**` matches folders at any depth."""
        return self._list(self._system.glob, f"{self._root}/{pattern}")

    def describe(self, name: str) -> StoredFile | None:
        """Returns None if there is no such file."""
        with self._errors("cannot read", name):
            self._system.invalidate_cache()
            try:
                info = self._system.info(self._path(name))
            except FileNotFoundError:
                return None
        return _read_info(info) if _is_file(info) else None

    def read(self, name: str) -> bytes | None:
        """Returns None if there is no such file."""
        with self._errors("cannot read", name):
            try:
                path = self._path(name)
                if self._system.info(path).get("size", 0) > LARGEST_TEXT:
                    raise OSError(errno.EFBIG, f"it has more than {LARGEST_TEXT} bytes", name)
                content: bytes = self._system.cat_file(path)
            except FileNotFoundError:
                return None
            return content

    def download(self, targets: Mapping[str, pathlib.Path]) -> None:
        """Writes files to paths in existing directories, several at the same time.

        StoreError, also if one is not there; then any of the paths may have been written.
        """
        if not targets:
            return
        name = next(iter(targets)) if len(targets) == 1 else ""
        with self._errors("cannot read" if name else f"cannot read {len(targets)} files in", name):
            sources = [self._path(name) for name in targets]
            self._system.get(sources, [str(path) for path in targets.values()])

    def upload(self, source: pathlib.Path, name: str) -> None:
        """FileNotFoundError if the local file is not there."""
        source.stat()
        with self._errors("cannot write", name), self._writing(name) as path:
            self._system.put_file(str(source), path)

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file, if there is one."""
        with self._errors("cannot write", name), self._writing(name) as path:
            self._system.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file unless there is one; False then. Not all stores exclude two writers."""
        with self._errors("cannot write", name):
            path = self._path(name)
            if self._system.exists(path):
                return False
            self._make_folder(path)
            try:
                self._system.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def delete(self, names: Sequence[str]) -> None:
        """Deletes files in this order; one that is not there is no error."""
        with self._errors("cannot delete files in"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._system.rm_file(self._path(name))

    def _list(self, find: Callable[..., Any], place: str) -> dict[str, StoredFile]:
        with self._errors("cannot list"):
            self._system.invalidate_cache()
            try:
                listed = find(place, detail=True)
            except FileNotFoundError:
                return {}
        names = {path: path.removeprefix(self._root).lstrip("/") for path in listed}
        return {
            names[path]: _read_info(info)
            for path, info in listed.items()
            if path.startswith(self._root) and _is_plain(names[path]) and _is_file(info)
        }

    def _path(self, name: str) -> str:
        path = f"{self._root}/{name}"
        if self._is_local:
            parts = name.split("/")
            for end in range(1, len(parts) + 1):
                part = pathlib.Path(self._root, *parts[:end])
                if part.is_symlink():
                    raise OSError(errno.ELOOP, "it is a link, which is not followed", part)
            if is_special(part) and not part.is_dir():
                raise OSError(errno.EINVAL, "it is not a regular file", part)
        return path

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[str]:
        path = self._path(name)
        if not self._renames:
            yield path
            return
        self._make_folder(path)
        folder, base = posixpath.split(path)
        temporary = f"{folder}/.{base}.{secrets.token_hex(4)}.partial"
        try:
            yield temporary
            self._system.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._system.rm_file(temporary)
            raise

    def _make_folder(self, path: str) -> None:
        if self._renames:
            self._system.makedirs(posixpath.dirname(path), exist_ok=True)

    @contextlib.contextmanager
    def _errors(self, what: str, name: str = "") -> Iterator[None]:
        """File systems raise errors of many libraries' classes."""
        try:
            yield
        except (InputError, MemoryError):
            raise
        except Exception as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            reason = " ".join(mask_parts(text, self._whole_url).split())[:_LONGEST_REASON]
            place = f"{self.url}/{name}".rstrip("/")
            raise StoreError(f"{what} {place}: {reason or type(error).__name__}") from error


def _file_system(url: str) -> tuple[Any, str]:
    match = _URL.match(url)
    if "::" in url:
        raise InputError(f"{mask_url(url)}: URLs within URLs are not read: name the store's")
    if match is None:
        raise InputError(f"{mask_url(url)}// names no bucket or directory: name one")
    import fsspec  # noqa: PLC0415 - takes a tenth of a second

    protocol = match[1]
    try:
        # Listings are not cached: other processes write there.
        files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "another package")
        remedy = _INSTALL if protocol in _PACKAGES else error
        raise InputError(f"{mask_url(url)} needs {package}: {remedy}") from error
    except Exception as error:
        reason = " ".join(mask_parts(str(error), url).split())
        raise StoreError(f"cannot open {mask_url(url)}: {reason}") from error
    # gcsfs logs the errors that it raises, and its retries.
    package = type(files).__module__.partition(".")[0]
    logging.getLogger(package).setLevel(logging.CRITICAL)
    return files, path


def _read_info(info: Mapping[str, Any]) -> StoredFile:
    version = next((info[key] for key in _VERSIONS if info.get(key) is not None), "")
    if isinstance(version, datetime.datetime):  # a number in listings of the same store
        version = version.timestamp()
    return StoredFile(int(info.get("size") or 0), str(version))


def _is_file(info: Mapping[str, Any]) -> bool:
    return info.get("type", "file") == "file" and not info.get("islink")


def _is_plain(name: str) -> bool:
    """Whether a name of an untrusted store stays below a directory, and is not hidden."""
    return "\0" not in name and all(part and part[0] != "." for part in name.split("/"))
