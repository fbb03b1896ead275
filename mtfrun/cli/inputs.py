# Not pathlib: names are shown as they were typed, and its tests for a file raise an error where a
# list of names is longer than a name can be.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH117, PTH118, PTH208

from __future__ import annotations

import argparse
import dataclasses
import glob
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mtfrun.cli.prompts import prompt_bytes, read_lines, read_prompts
from mtfrun.data.files import matching_files
from mtfrun.errors import InputError
from mtfrun.experiment import Images

_SPLIT = "split:"


def split_of_input(path: str | None) -> str | None:
    """Returns the name after --input=split:, None for other inputs."""
    return path.removeprefix(_SPLIT) if path is not None and path.startswith(_SPLIT) else None


class FlagSource:
    """The input that --prompt, --input or --interactive of `decode` names."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags

    @property
    def split(self) -> str | None:
        return split_of_input(self._flags.input)

    def texts(self) -> list[bytes]:
        """Returns the prompts; none with --interactive."""
        path = self._flags.input
        if (path or "").lower().endswith(IMAGE_SUFFIXES):
            raise InputError(
                f"--input={path} is for models of images, and this one reads text: give a file "
                "with a prompt a line, or --prompt=TEXT"
            )
        if path is not None:
            return read_prompts(self._flags.input)
        return [prompt_bytes(text) for text in self._flags.prompt]

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        if self._flags.input is None:
            name = "interactive" if self._flags.interactive else "prompt"
            raise InputError(
                f"the model is a classifier of images, --{name} is for models of text: give images "
                f"with --input=FILE, a folder, a pattern or {_SPLIT}NAME of the data"
            )
        paths = image_paths(self._flags.input)
        return Images(len(paths), _images(paths, read))


@dataclasses.dataclass(frozen=True)
class TypedText:
    text: bytes
    split: str | None = None

    def texts(self) -> list[bytes]:
        return [self.text]

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        raise InputError("the model reads images: give them with --input=FILE")


def _images(
    paths: Sequence[str], read: Callable[[str], np.ndarray]
) -> Iterator[tuple[np.ndarray, dict[str, object]]]:
    for path in paths:
        # Names that are not UTF-8 cannot be written as JSON.
        yield read(path), {"file": os.fsencode(path).decode("utf-8", "replace")}


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""What the names of image files end with."""
_LIST_SUFFIX = ".txt"


def image_paths(argument: str) -> list[str]:
    """Returns the paths of image files, all of which exist.

    `argument` has, separated by commas, images, folders (their PNG and JPEG files by name),
    patterns such as "photos/**/*.png", or `.txt` files ("-" is standard input) with a path a line.
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
