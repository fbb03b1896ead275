"""The records of how a run was made: its configuration and every command that was given."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import socket
import time
from collections.abc import Sequence

from mtfrun.rundir.atomic import atomic_write
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.regular_files import read_regular_text

_PACKAGES = ("mtfrun", "tensorflow", "tensorflow-datasets", "gin-config", "numpy")


def record_command(directory: str | os.PathLike[str], arguments: Sequence[str]) -> str:
    """Writes the command line to the next `directory/0001.txt` and returns its path.

    The file runs in a shell as it is; time, host, working directory and package versions stand
    above the command as comments.
    """
    path = _next_file(os.fspath(directory))
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    try:
        atomic_write(
            path,
            f"# {when} on {socket.gethostname()}, process {os.getpid()}\n"
            f"# in {shlex.quote(os.getcwd())}\n"
            f"# python {platform.python_version()}, {versions}\n"
            f"{shlex.join(arguments)}\n",
        )
    except BaseException:
        # Otherwise the empty file would stay that has reserved the number.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return path


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that decide what a run computes, where installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # mtfrun run from its source tree, for one.
            continue
    return versions


def read_record(path: str | os.PathLike[str]) -> str:
    """Returns the text of a record, such as the `config.gin` that evaluation reads."""
    path = os.fspath(path)
    try:
        return read_regular_text(path)
    except FileNotFoundError:
        raise RunDirError(
            f"no {os.path.basename(path)} in {os.path.dirname(path)}:"
            " check --model_dir, or give the configuration with --gin_file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirError(
            f"cannot read {path}: {reason(error)}; give the configuration with --gin_file"
        ) from error


def _next_file(directory: str) -> str:
    """Makes the first free number's empty file: processes that start together get one each."""
    try:
        os.makedirs(directory, exist_ok=True)
        number = 1 + sum(name.endswith(".txt") for name in os.listdir(directory))
        while True:
            path = os.path.join(directory, f"{number:04d}.txt")
            try:
                with open(path, "x"):
                    return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunDirError(
            f"cannot write in {directory}: {reason(error)}; name a --model_dir you may write to"
        ) from error
