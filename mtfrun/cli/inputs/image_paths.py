"""The image files of an `--input`."""

# Not pathlib: names are shown as they were typed, and its tests for a file raise an error where a
# list of names is longer than a name can be.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH117, PTH118, PTH208

from __future__ import annotations

import glob
import os

from mtfrun.cli.inputs.prompts import read_lines
from mtfrun.data.file_patterns import matching_files
from mtfrun.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""What the names of image files end with."""

_LIST_SUFFIX = ".txt"


def image_paths(argument: str) -> list[str]:
    """Returns the paths of image files, all of which exist.

    The argument is an image, a folder (its PNG and JPEG files by name), a pattern such as
    "photos/**/*.png", or a `.txt` file (or "-", standard input) with a path a line; or several of
    these, separated by commas.

    Raises:
      InputError: a file does not exist, or there is no image.
    """
    parts = [argument] if os.path.exists(argument) else argument.split(",")
    paths = [path for part in parts for path in _paths(part)]
    for path in paths:
        if not os.path.isfile(path):
            raise InputError(
                f"no image {path}: give an image, a folder, a pattern or a list (.txt)"
            )
    if not paths:
        raise InputError(f"--input={argument} names no image")
    return paths


def _paths(part: str) -> list[str]:
    if part == "-" or (part.endswith(_LIST_SUFFIX) and os.path.isfile(part)):
        return [os.fsdecode(line) for line in read_lines(part) if line]
    if os.path.isdir(part):
        names = [name for name in os.listdir(part) if name.lower().endswith(IMAGE_SUFFIXES)]
        if not names:
            raise InputError(f"the folder {part} holds no {', '.join(IMAGE_SUFFIXES)} file")
        return [os.path.join(part, name) for name in sorted(names)]
    if glob.has_magic(part) and not os.path.exists(part):
        matches = matching_files(os.path.abspath(part))
        if not os.path.isabs(part):
            matches = [os.path.relpath(path) for path in matches]
        if not matches:
            raise InputError(f"no file matches {part}")
        return matches
    return [part]
