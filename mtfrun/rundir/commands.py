"""Records of the commands of a run: arguments, versions, hashes of the code.

A training's record also has the step at which it began, its data and hyperparameters.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import itertools
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
from mtfrun.files.errors import RunDirError, refuse_link, run_dir_errors
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
# The flag that `mtf.function` adds to the user's XLA_FLAGS for programs that XLA compiles.
_ADDED_XLA_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def record_command(
    directory: pathlib.Path, arguments: Sequence[str], setup: Mapping[str, object] | None = None
) -> str:
    """Records how to reproduce a command, in the next `directory/0001.json`.

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
    """Returns versions and settings that affect results, beside configuration and data."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        # The processors that the process may use, which is TensorFlow's number of threads.
        "threads": len(os.sched_getaffinity(0)),
        "environment": _environment(),
        "versions": run_versions(),
        "commit": package_commit(),
        "modules": module_hashes(),
    }


def _environment() -> dict[str, str]:
    values = {name: os.environ.get(name, "") for name in _ENVIRONMENT}
    values["XLA_FLAGS"] = values["XLA_FLAGS"].removesuffix(_ADDED_XLA_FLAG).rstrip()
    return {name: value for name, value in values.items() if value}


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
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    records: dict[str, dict[str, Any]] = {}
    for path in paths:
        if _FILE.fullmatch(path.name):
            with run_dir_errors(f"{path} is damaged", "remove it", OSError, ValueError):
                record = read_json(path, follows_links=False)
                if not isinstance(record, dict):
                    raise InputError("not an object")
            records[path.name] = mask_json(record)
    return records


def read_record(path: str | os.PathLike[str]) -> str:
    path = pathlib.Path(path)
    remedy = "give the configuration with --gin_file"
    with run_dir_errors(f"cannot read {path}", remedy, OSError, UnicodeDecodeError):
        try:
            return read_regular_text(path, follows_links=False)
        except FileNotFoundError:
            what = f"no {path.name} in {path.parent}"
    raise RunDirError(f"{what}: check --model_dir, or {remedy}")


def _next_file(directory: pathlib.Path) -> pathlib.Path:
    """Creates an empty file with the first free number: no two processes get the same."""
    refuse_link(directory)
    with run_dir_errors(f"cannot write in {directory}", "name a --model_dir you may write to"):
        directory.mkdir(parents=True, exist_ok=True)
        first = 1 + sum(path.name.endswith(".json") for path in directory.iterdir())
        for number in itertools.count(first):
            path = directory / f"{number:04d}.json"
            with contextlib.suppress(FileExistsError), path.open("x"):
                return path
    raise AssertionError("unreachable")


def _processor() -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = pathlib.Path("/proc/cpuinfo").read_text("utf-8")
        if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return match[1]
    return platform.processor() or None
