"""Records of a run: its configuration and its commands."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pathlib
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

    The file is a shell script; comments above the command have time, host, working directory and
    package versions.
    """
    path = _next_file(pathlib.Path(directory))
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    try:
        atomic_write(
            path,
            f"# {when} on {socket.gethostname()}, process {os.getpid()}\n"
            f"# in {shlex.quote(str(pathlib.Path.cwd()))}\n"
            f"# python {platform.python_version()}, {versions}\n"
            f"{shlex.join(arguments)}\n",
        )
    except BaseException:
        # Otherwise the empty file that has reserved the number would remain.
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return str(path)


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that a run's results depend on, if installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # For example mtfrun itself, run from its source tree.
            continue
    return versions


def read_record(path: str | os.PathLike[str]) -> str:
    """Returns the text of a record, such as the `config.gin` that evaluation reads."""
    path = pathlib.Path(path)
    try:
        return read_regular_text(path)
    except FileNotFoundError:
        raise RunDirError(
            f"no {path.name} in {path.parent}:"
            " check --model_dir, or give the configuration with --gin_file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirError(
            f"cannot read {path}: {reason(error)}; give the configuration with --gin_file"
        ) from error


def _next_file(directory: pathlib.Path) -> pathlib.Path:
    """Creates an empty file with the first free number: no two processes get the same."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(path.name.endswith(".txt") for path in directory.iterdir())
        while True:
            path = directory / f"{number:04d}.txt"
            try:
                with path.open("x"):
                    return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunDirError(
            f"cannot write in {directory}: {reason(error)}; name a --model_dir you may write to"
        ) from error
