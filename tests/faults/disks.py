"""Disks on which nothing can be written: full, read-only, with a quota, with a limit of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.faults.forked import Preparation
from tests.faults.hooks import FailingWrites

FAULTS = {
    "full": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "read-only": errno.EROFS,
    "limit of a file": errno.EFBIG,
}
_OPENED_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclasses.dataclass(frozen=True)
class FileLimit:
    """Limits every file that the process writes to some bytes (RLIMIT_FSIZE)."""

    size: int

    def __call__(self) -> None:
        """Sets the limit."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))


@dataclasses.dataclass(frozen=True)
class RefusedWrites:
    """Lets Python open no file for writing below a directory, as on a read-only disk."""

    directory: str

    def __call__(self) -> None:
        """Begins to refuse."""

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event not in ("open", "os.mkdir", "os.rename", "os.remove"):
                return
            path, *more = arguments
            is_below = isinstance(path, str | pathlib.Path) and str(path).startswith(self.directory)
            is_read = event == "open" and not (int(str(more[-1])) & _OPENED_FOR_WRITING)
            if is_below and not is_read:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        sys.addaudithook(hook)


@functools.cache
def may_mount() -> bool:
    """Returns whether this process may mount file systems."""
    with tempfile.TemporaryDirectory() as directory:
        if _mount("-t", "tmpfs", "tmpfs", directory).returncode:
            return False
        subprocess.run(["umount", directory], check=True)
    return True


def _mount(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    if shutil.which("mount") is None:
        return subprocess.CompletedProcess(arguments, 1)
    return subprocess.run(["mount", *arguments], capture_output=True)


@contextlib.contextmanager
def faulty_disk(fault: str, directory: pathlib.Path, size: int) -> Iterator[Preparation | None]:
    """Makes writing fail below a directory in the block, and yields what a command needs for it.

    Where no file system may be mounted, a full and a read-only disk are calls that fail.

    Args:
      fault: one of FAULTS.
      directory: exists; its files are kept.
      size: bytes that the disk, or a file, can have.
    """
    if fault == "quota" or (fault == "full" and not may_mount()):
        yield FailingWrites(FAULTS[fault], str(directory))
    elif fault == "limit of a file":
        yield FileLimit(size)
    elif fault == "full":
        with _mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
            yield None
    elif may_mount():
        with _mounted(directory, "--bind", str(directory)):
            done = _mount("-o", "remount,bind,ro", str(directory))
            assert done.returncode == 0, done.stderr
            yield None
    else:
        yield RefusedWrites(str(directory))


@contextlib.contextmanager
def _mounted(directory: pathlib.Path, *arguments: str) -> Iterator[None]:
    """Mounts a file system in the block, with the files of the directory before and after."""
    copy = directory.with_name(f"{directory.name}.copy")
    shutil.copytree(directory, copy)
    done = _mount(*arguments, str(directory))
    assert done.returncode == 0, done.stderr
    is_writable = "tmpfs" in arguments
    try:
        if is_writable:
            shutil.copytree(copy, directory, dirs_exist_ok=True)
        yield
        if is_writable:
            shutil.rmtree(copy)
            shutil.copytree(directory, copy)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
    if is_writable:
        shutil.rmtree(directory)
        copy.rename(directory)


def size_of(directory: pathlib.Path) -> int:
    """Returns the bytes of all files below a directory, in the pages that a tmpfs gives them."""
    page = resource.getpagesize()
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return sum(-(-size // page) * page for size in sizes)
