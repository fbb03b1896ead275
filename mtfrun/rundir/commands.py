"""Records of the commands of a run: arguments, versions, hashes of the code.

A training's record also has the step at which it began, its data and hyperparameters. The code is
mtfrun's commit and files, and the user's modules. git is never started: it runs programs that the
configuration of a repository names.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
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
import types
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.errors import InputError
from mtfrun.errors.differences import Change, changes
from mtfrun.errors.untrusted import hash_of_file, is_regular, read_json, read_regular_text
from mtfrun.errors.url_secrets import mask_json, mask_urls
from mtfrun.files.atomic import atomic_write
from mtfrun.files.errors import RunDirError, refuse_link, run_dir_errors

PACKAGE = pathlib.Path(__file__).parents[1]
"""The directory of mtfrun's files."""

# A command's program, and its name in processes that multiprocessing has started.
_PROGRAMS = ("__main__", "__mp_main__")
_STANDARD_LIBRARY = f"{pathlib.Path(os.__file__).parent}{os.sep}"
_INSTALLED = re.compile(r"[/\\](dist|site)-packages[/\\]")

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
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
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


def module_hashes() -> dict[str, str]:
    """Returns the SHA-256 of the source files that may change what a run computes, by module.

    These are mtfrun's files, but for its commands, and all imported modules outside of the standard
    library and of installed distributions, without the started program.
    """
    return {**_package_hashes(), **_user_hashes()}


def code_summary() -> dict[str, str]:
    """Returns `module_hashes` with one entry for mtfrun: its version, and a hash of its files."""
    # The package was imported before its modules; to import it here would be a cycle.
    version = sys.modules["mtfrun"].__version__
    return {"mtfrun": f"{version} ({hash_of_package()[:12]})", **_user_hashes()}


def hash_of_package() -> str:
    return hashlib.sha256(repr(sorted(_package_hashes().items())).encode()).hexdigest()


def changed_modules(old: object, new: object) -> list[Change]:
    """Returns the modules that differ, several of mtfrun's as one.

    Modules that one side lacks are not a change: the module that imports them has changed, or the
    configuration.
    """
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    common = [{name: x.get(name) for name in new if name in old} for x in (old, new)]
    differing = changes(*common)
    ours = [change for change in differing if change.name.startswith("mtfrun.")]
    if len(ours) > 1:
        name = f"{ours[0].name} and {len(ours) - 1:,} more of mtfrun"
        ours = [ours[0]._replace(path=(name,))]
    return [*(change for change in differing if not change.name.startswith("mtfrun.")), *ours]


def package_commit() -> str | None:
    """Returns the commit that is checked out where mtfrun lies; None outside of a checkout."""
    git = PACKAGE.parent / ".git"
    with contextlib.suppress(OSError, ValueError):
        if is_regular(git):  # a linked working tree, or a submodule
            git = git.parent / _text(git).removeprefix("gitdir: ")
        reference = _text(git / "HEAD").removeprefix("ref: ")
        common = git / _text(git / "commondir") if is_regular(git / "commondir") else git
        texts = [reference]
        if is_regular(common / reference):
            texts.append(_text(common / reference))
        if is_regular(common / "packed-refs"):
            pattern = rf"^(\w+) {re.escape(reference)}$"
            texts += re.findall(pattern, _text(common / "packed-refs"), re.MULTILINE)
        return next((text for text in texts if re.fullmatch(r"[0-9a-f]{40,64}", text)), None)
    return None


def _text(path: pathlib.Path) -> str:
    return read_regular_text(path).strip()


@functools.cache
def _package_hashes() -> Mapping[str, str]:
    hashes = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "cli":  # which training does not depend on
            name = ".".join(["mtfrun", *parts]).removesuffix(".__init__")
            hashes[name] = _hash_of(path)
    return {name: digest for name, digest in hashes.items() if digest is not None}


def _user_hashes() -> dict[str, str]:
    hashes = {}
    for name, module in sorted(sys.modules.items()):
        # Not by `getattr`, for which some packages import more.
        file = module.__dict__.get("__file__") if isinstance(module, types.ModuleType) else None
        if not isinstance(file, str) or name.partition(".")[0] in ("mtfrun", *_PROGRAMS):
            continue
        if file.startswith(_STANDARD_LIBRARY) or _INSTALLED.search(file):
            continue
        if (digest := _hash_of(pathlib.Path(file))) is not None:
            hashes[name] = digest
    return hashes


def _hash_of(path: pathlib.Path) -> str | None:
    """Returns the SHA-256 of a file, or of the archive in which it lies; None if it was deleted."""
    file = next((x for x in (path, *path.parents) if is_regular(x)), path)
    with contextlib.suppress(OSError):
        return hash_of_file(file)
    return None
