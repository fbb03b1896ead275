"""The input of `decode` by its flags: texts, images or a split."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mtfrun.cli.inputs.image_paths import IMAGE_SUFFIXES, image_paths
from mtfrun.cli.inputs.prompts import prompt_bytes, read_prompts
from mtfrun.errors import InputError
from mtfrun.experiment import Images

_SPLIT = "split:"


def split_of_input(path: str | None) -> str | None:
    """Returns the name after --input=split:, None for other inputs."""
    return path.removeprefix(_SPLIT) if path is not None and path.startswith(_SPLIT) else None


class FlagSource:
    """The input that --prompt, --input or --interactive of `decode` names."""

    def __init__(self, flags: argparse.Namespace) -> None:
        """flags: those of `decode`."""
        self._flags = flags

    @property
    def split(self) -> str | None:
        """The name after --input=split:, None for other inputs."""
        return split_of_input(self._flags.input)

    def texts(self) -> list[bytes]:
        """Returns the prompts; of --interactive none.

        Raises:
          InputError: the input is for models of images.
        """
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
        """Returns the images of the files of --input, see `image_paths`."""
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
    """A text that was typed.

    Attributes:
      text: its bytes.
      split: None, see `FlagSource.split`.
    """

    text: bytes
    split: str | None = None

    def texts(self) -> list[bytes]:
        """Returns the text."""
        return [self.text]

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        """Raises InputError."""
        raise InputError("the model reads images: give them with --input=FILE")


def _images(
    paths: Sequence[str], read: Callable[[str], np.ndarray]
) -> Iterator[tuple[np.ndarray, dict[str, object]]]:
    for path in paths:
        # Names that are not UTF-8 cannot be written as JSON.
        yield read(path), {"file": os.fsencode(path).decode("utf-8", "replace")}
