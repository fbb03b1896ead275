"""Records of a run: its configuration and its commands."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import socket
import sys
from collections.abc import Sequence

from mtfrun.rundir.atomic import atomic_write
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.rundir.records.working_tree import working_tree
from mtfrun.untrusted import read_regular_text

_PACKAGES = ("tensorflow", "tensorflow-datasets", "gin-config", "numpy")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a command ran with.

    Attributes:
      configuration: the text of one gin file that has all bindings.
      seed: of initial values, noise and the order of the data.
      mesh: its axes, "data:2;model:1".
      layout: its rules.
      devices: a text that names them.
    """

    configuration: str
    seed: int
    mesh: str
    layout: str
    devices: str


def record_command(
    directory: str | os.PathLike[str], arguments: Sequence[str], setup: Setup | None = None
) -> str:
    """Writes all that is needed to reproduce a command, and returns the path.

    The file is the next `directory/0001.json`: one JSON object with the command as a list and as it
    is typed in a shell, date, host, process, working directory, versions, the commit and the diff
    of the working directory where it is in a git repository, and the fields of the `setup`.
    """
    path = _next_file(pathlib.Path(directory))
    place = pathlib.Path.cwd()
    record = {
        "command": list(arguments),
        "shell": shlex.join(arguments),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "directory": str(place),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "git": working_tree(place),
        **(dataclasses.asdict(setup) if setup is not None else {}),
    }
    try:
        # Bytes that are not UTF-8 become surrogates in Python, and escapes in JSON.
        text = json.dumps({k: v for k, v in record.items() if v is not None}, indent=1)
        atomic_write(path, f"{text}\n")
    except BaseException:
        # Otherwise the empty file that has reserved the number would remain.
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return str(path)


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that a run's results depend on, if installed."""
    # The package was imported before its modules; to import it here would be a cycle.
    versions = {"mtfrun": str(sys.modules["mtfrun"].__version__)}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
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
        number = 1 + sum(path.name.endswith(".json") for path in directory.iterdir())
        while True:
            path = directory / f"{number:04d}.json"
            try:
                with path.open("x"):
                    return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunDirError(
            f"cannot write in {directory}: {reason(error)}; name a --model_dir you may write to"
        ) from error
