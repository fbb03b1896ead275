"""Records of the commands of a run: arguments, versions, hashes of the code.

A training's record also has the step at which it began, its data and hyperparameters.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import read_json, read_regular_text
from mtfrun.errors.url_secrets import mask_json, mask_urls
from mtfrun.files.atomic import atomic_write
from mtfrun.files.errors import RunDirError, reason, refuse_link
from mtfrun.rundir.code import module_hashes, package_commit

_PACKAGES = (
    *("tensorflow", "tensorflow-datasets", "gin-config", "numpy", "ml-dtypes", "pillow"),
    "sentencepiece",
)
_FILE = re.compile(r"[0-9]{4,9}\.json")
# Variables of the environment that change the order of sums, or their kernels.
_ENVIRONMENT = (
    *("NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "TF_CUDNN_DETERMINISTIC", "TF_DETERMINISTIC_OPS"),
    *("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"),
    *("TF_XLA_FLAGS", "XLA_FLAGS"),
)


def record_command(
    directory: pathlib.Path, arguments: Sequence[str], setup: Mapping[str, object] | None = None
) -> str:
    """Writes all that is needed to reproduce a command to the next `directory/0001.json`.

    One JSON object: the command as a list and as it is typed in a shell, date, host, process,
    working directory, versions, mtfrun's commit, hashes of modules, and the entries of `setup`.
    """
    path = _next_file(directory)
    arguments = [mask_urls(argument) for argument in arguments]
    record = {
        "command": arguments,
        "shell": shlex.join(arguments),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "directory": str(pathlib.Path.cwd()),
        **describe_program(),
        **(setup or {}),
    }
    try:
        # Bytes that are not UTF-8 become surrogates in Python, and escapes in JSON.
        text = json.dumps(mask_json({k: v for k, v in record.items() if v is not None}), indent=1)
        atomic_write(path, f"{text}\n")
    except BaseException:
        # Otherwise the empty file that has reserved the number would remain.
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return str(path)


def describe_program() -> dict[str, object]:
    """Returns what may change the numbers of a run beside its configuration and data."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": _threads(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "versions": run_versions(),
        "commit": package_commit(),
        "modules": module_hashes(),
    }


def run_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run's results depend on."""
    # The package was imported before its modules; to import it here would be a cycle.
    versions = {"python": platform.python_version(), "mtfrun": sys.modules["mtfrun"].__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def read_commands(run: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Returns the records of a run by their files, oldest first; RunDirError if one is damaged."""
    directory = pathlib.Path(run, "commands")
    records: dict[str, dict[str, Any]] = {}
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    for name in sorted(filter(_FILE.fullmatch, names)):
        try:
            record = read_json(directory / name, follows_links=False)
            if not isinstance(record, dict):
                raise InputError("not an object")
        except (OSError, ValueError) as error:
            raise damaged_record(directory / name, error) from error
        records[name] = mask_json(record)
    return records


def damaged_record(path: pathlib.Path, error: Exception) -> RunDirError:
    return RunDirError(f"{path} is damaged ({reason(error)}): remove it")


def read_record(path: str | os.PathLike[str]) -> str:
    path = pathlib.Path(path)
    try:
        return read_regular_text(path, follows_links=False)
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
    refuse_link(directory)
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


def _threads() -> int | None:
    """Returns the number of processors that the process may use, TensorFlow's number of threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = pathlib.Path("/proc/cpuinfo").read_text("utf-8")
        if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return match[1]
    return platform.processor() or None
