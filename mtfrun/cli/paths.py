"""Checks of the files and directories that flags name, before TensorFlow is imported."""

# Not pathlib: names are shown as they were typed, and it raises an error for long names.
# ruff: noqa: PTH207, PTH100, PTH110, PTH112, PTH118, PTH120, PTH208

from __future__ import annotations

import argparse
import glob
import os
import re
from collections.abc import Callable

from mtfrun.cli.command import PathKind
from mtfrun.errors import InputError, did_you_mean
from mtfrun.files import is_url

_AT_STEP = re.compile(r"@[a-z0-9]+$")
# A model of the Hugging Face Hub, for which `import` has another remedy.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_paths(flags: argparse.Namespace) -> None:
    """Raises InputError for a path that cannot be read, or written; URLs are opened later."""
    for flag, name, kind in flags.paths:
        value = getattr(flags, name)
        if isinstance(value, str) and value not in ("", "-") and not is_url(value):
            _CHECKS[kind](flags, flag, value)


def _check_input(_: argparse.Namespace, flag: str, value: str) -> None:
    """Also accepts the other forms of inputs: a split, a pattern, a list, a prefix."""
    path = os.path.expanduser(value)
    is_other = path.startswith("split:") or glob.has_magic(path) or "," in path
    if not (is_other or os.path.exists(path) or glob.glob(glob.escape(path) + ".*")):
        raise InputError(f"{flag}{value}: there is no such file{_nearest(path)}")


def _check_model(flags: argparse.Namespace, flag: str, value: str) -> None:
    path = os.path.expanduser(value)
    if not _HUB_NAME.fullmatch(value):
        _check_input(flags, flag, value)
    if os.path.isdir(path) and not _names(path):
        raise InputError(f"{flag}{value} has no files: name the folder of a model")


def _check_directory(_: argparse.Namespace, flag: str, value: str) -> None:
    path = os.path.expanduser(_AT_STEP.sub("", value))
    if not os.path.isdir(path):
        hint = _nearest(path, os.path.isdir) or ": check its name"
        raise InputError(f"{flag}{value} is not a directory{hint}")


def _check_checkpoint(flags: argparse.Namespace, flag: str, value: str) -> None:
    if flags.model_dir is None:  # else it may be a step of that run
        _check_directory(flags, flag, value)


def _check_new_file(_: argparse.Namespace, __: str, value: str) -> None:
    """Missing directories are made; one of them may not be a file."""
    parent = os.path.dirname(os.path.abspath(os.path.expanduser(value)))
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise InputError(f"cannot write {value}: {parent} is not a directory")


def _check_new_directory(_: argparse.Namespace, flag: str, value: str) -> None:
    if _names(os.path.expanduser(value)):
        raise InputError(f"{flag}{value} is not empty: name a new directory")


def _check_run(flags: argparse.Namespace, _: str, value: str) -> None:
    if flags.gin_file or getattr(flags, "continuous", False):
        return
    if not os.path.isdir(run := os.path.expanduser(value)):
        remedy = _nearest(run, os.path.isdir) or (
            ": check its name, or make it with `mtfrun train --model_dir=...`"
        )
        raise InputError(f"--model_dir {run} is not a directory{remedy}")


_CHECKS: dict[PathKind, Callable[[argparse.Namespace, str, str], None]] = {
    "run": _check_run,
    "input": _check_input,
    "model": _check_model,
    "directory": _check_directory,
    "adapter": lambda *_: None,  # perhaps a name in the directory of the run
    "checkpoint": _check_checkpoint,
    "new file": _check_new_file,
    "new directory": _check_new_directory,
}


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
