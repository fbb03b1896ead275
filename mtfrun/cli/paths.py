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

from mtfrun.cli.command import PathKind
from mtfrun.errors import InputError, nearest
from mtfrun.files import is_url

_AT_STEP = re.compile(r"@[a-z0-9]+$")
# A model of the Hugging Face Hub, for which `import` has another remedy.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_paths(flags: argparse.Namespace) -> None:
    """Raises InputError for a path that cannot be read, or written; URLs are opened later."""
    for flag, name, kind in flags.paths:
        value = getattr(flags, name)
        if isinstance(value, str) and value not in ("", "-") and not is_url(value):
            _check(flags, f"{flag}{value}", os.path.expanduser(value), kind)


def _check(flags: argparse.Namespace, shown: str, path: str, kind: PathKind) -> None:
    if kind == "run":
        is_made = flags.gin_file or getattr(flags, "continuous", False)
        if not (is_made or os.path.isdir(path)):
            remedy = ": check its name, or make it with `mtfrun train --model_dir=...`"
            near = _nearest(path, os.path.isdir, remedy)
            raise InputError(f"--model_dir {path} is not a directory{near}")
    elif kind == "directory" or (kind == "checkpoint" and flags.model_dir is None):
        path = _AT_STEP.sub("", path)
        if not os.path.isdir(path):
            near = _nearest(path, os.path.isdir, ": check its name")
            raise InputError(f"{shown} is not a directory{near}")
    elif kind == "input" or (kind == "model" and not _HUB_NAME.fullmatch(path)):
        # Also a split, a pattern, a list, or the beginning of a checkpoint's files.
        is_other = path.startswith("split:") or glob.has_magic(path) or "," in path
        if not (is_other or os.path.exists(path) or glob.glob(glob.escape(path) + ".*")):
            raise InputError(f"{shown}: there is no such file{_nearest(path)}")
        if kind == "model" and os.path.isdir(path) and not _names(path):
            raise InputError(f"{shown} has no files: name the folder of a model")
    elif kind == "new directory" and _names(path):
        raise InputError(f"{shown} is not empty: name a new directory")
    elif kind == "new file":  # missing directories are made; one of them may not be a file
        parent = os.path.dirname(os.path.abspath(path))
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        if not os.path.isdir(parent):
            raise InputError(f"cannot write {path}: {parent} is not a directory")


def _nearest(path: str, fits: Callable[[str], bool] = os.path.exists, remedy: str = "") -> str:
    directory, name = os.path.split(path)
    names = (entry for entry in _names(directory or ".") if fits(os.path.join(directory, entry)))
    near = nearest(name, names)
    return f", did you mean {os.path.join(directory, near)!r}?" if near else remedy


def _names(directory: str) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return os.listdir(directory)
    return []
