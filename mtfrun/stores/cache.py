"""Where copies of a store's files are on this machine: $MTFRUN_CACHE_DIR/stores."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from mtfrun.errors import InputError
from mtfrun.untrusted import open_to_write
from mtfrun.url_secrets import mask_url

_LONGEST_NAME = 100


def cache_directory(kind: str, url: str) -> pathlib.Path:
    """Returns the directory of a URL's copies; its name is the last part of the URL."""
    chosen = os.environ.get("MTFRUN_CACHE_DIR") or "~/.cache/mtfrun"
    root = pathlib.Path(os.path.expanduser(chosen)).absolute()
    url = mask_url(url.rstrip("/"))
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    last = url.partition("?")[0].rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", last)[-_LONGEST_NAME:].lstrip(".")
    return root / "stores" / kind / digest / (name or "_")


def check_room(directory: pathlib.Path, size: int, url: str) -> None:
    """Raises InputError if the disk of an existing directory has no room for a download."""
    free = shutil.disk_usage(directory).free
    if size > free:
        raise InputError(
            f"{url}: its files have {size:,} bytes, and {directory} has room for {free:,}; name "
            "another place with MTFRUN_CACHE_DIR"
        )


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock file `path` during the block; waits while another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_to_write(path, "rb+")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name another place with "
            "MTFRUN_CACHE_DIR"
        ) from error
    with file:
        yield
