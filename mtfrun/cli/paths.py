"""Checks of the files and directories that flags name, before TensorFlow is imported."""

# Not pathlib: names are shown as they were typed, and it raises an error for long names.
# ruff: noqa: PTH207, PTH100, PTH110, PTH112, PTH118, PTH120, PTH208

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import re
from collections.abc import Callable

from mtfrun.cli.command import Command
from mtfrun.errors import InputError, did_you_mean
from mtfrun.stores import is_url

# Commands that read the run of --model_dir, besides commands about runs alone.
_READERS = frozenset(
    {"eval", "decode", "score", "serve", "export", "config show", "data cache", "data show"}
    | {"data stats", "data logits"}
)
# Flags by what they must name: an existing file or directory, a directory, a new file in one.
_EXISTING = ("input", "source", "file", "token_file")
_DIRECTORIES = ("base", "from_run", "adapter", "draft", "first", "second")
_NEW_FILES = ("output", "html", "picture")
_STEP = re.compile(r"ckpt-(\d+)\.json")
_AT_STEP = re.compile(r"@[a-z0-9]+$")
# A model of the Hugging Face Hub, for which `import` has another remedy.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_paths(flags: argparse.Namespace, command: Command) -> None:
    """Raises InputError for a path that cannot be read, or written; URLs are opened later."""
    run = getattr(flags, "model_dir", None)
    if run is not None and not is_url(run) and not getattr(flags, "continuous", False):
        run = os.path.expanduser(run)
        reads = command.subject == "run" or command.name in _READERS
        if reads and not command.writes_run and not flags.gin_file:
            _check_run(flags, run)
    for name in (*_EXISTING, *_DIRECTORIES, *_NEW_FILES):
        value = getattr(flags, name, None)
        if not isinstance(value, str) or not value or value == "-" or is_url(value):
            continue
        if name in ("first", "second") and run is not None:  # steps of this run
            continue
        flag = {"source": "--from=", "first": "", "second": ""}.get(name, f"--{name}=")
        path = os.path.expanduser(value)
        if name in _NEW_FILES:
            _check_parents(value, path)
        elif name in _DIRECTORIES:
            _check_directory(flag, value, run)
        elif not _may_exist(path) and not (name == "source" and _HUB_NAME.fullmatch(value)):
            raise InputError(f"{flag}{value}: there is no such file{_nearest(path)}")
        elif name == "source" and os.path.isdir(path) and not _names(path):
            raise InputError(f"{flag}{value} has no files: name the folder of a model")
    _check_new(flags, command)


def _check_parents(value: str, path: str) -> None:
    """Missing directories are made; one of them may not be a file."""
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise InputError(f"cannot write {value}: {parent} is not a directory")


def _check_new(flags: argparse.Namespace, command: Command) -> None:
    flag = {"export": "to", "data logits": "to", "import": "model_dir"}.get(command.name)
    value = getattr(flags, flag, None) if flag else None
    if value and not is_url(value) and _names(os.path.expanduser(value)):
        raise InputError(f"--{flag}={value} is not empty: name a new directory")


def _check_run(flags: argparse.Namespace, run: str) -> None:
    if not os.path.isdir(run):
        remedy = _nearest(run, os.path.isdir) or (
            ": check its name, or make it with `mtfrun train --model_dir=...`"
        )
        raise InputError(f"--model_dir {run} is not a directory{remedy}")
    step = getattr(flags, "checkpoint", None)
    with contextlib.suppress(OSError):  # the command says why it cannot be read
        names = filter(_STEP.fullmatch, os.listdir(os.path.join(run, "checkpoints")))
        steps = sorted(int(name[5:-5]) for name in names)
        if steps and isinstance(step, str) and step.isdecimal() and int(step) not in steps:
            raise InputError(
                f"no checkpoint of step {step} in {run}/checkpoints; choose one of the steps "
                f"{', '.join(map(str, steps))}"
            )


def _check_directory(flag: str, value: str, run: str | None) -> None:
    path = os.path.expanduser(_AT_STEP.sub("", value))
    in_run = os.path.join(run or "", "adapters")
    if value == "lookup" or os.path.isdir(path) or os.path.isdir(os.path.join(in_run, value)):
        return
    near = did_you_mean(value, _names(in_run)) if run and flag == "--adapter=" else ""
    hint = near or _nearest(path, os.path.isdir) or ": check its name"
    raise InputError(f"{flag}{value} is not a directory{hint}")


def _may_exist(path: str) -> bool:
    """Whether a path exists, or is one of the other forms: a split, a pattern, a list, a prefix."""
    is_other = path.startswith("split:") or glob.has_magic(path) or "," in path
    return is_other or os.path.exists(path) or bool(glob.glob(glob.escape(path) + ".*"))


def _nearest(path: str, fits: Callable[[str], bool] = os.path.exists) -> str:
    directory, name = os.path.split(path)
    names = (entry for entry in _names(directory or ".") if fits(os.path.join(directory, entry)))
    near = did_you_mean(name, names)
    return near.replace("'", f"'{os.path.join(directory, '')}", 1) if near else ""


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (OSError, ValueError):
        return []
