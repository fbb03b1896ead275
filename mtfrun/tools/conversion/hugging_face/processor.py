"""What prepares the inputs of a model of a folder: a tokenizer of texts, or sizes of images."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from mtfrun.tools.conversion.gin_file import GinFile


class Processor(Protocol):
    """The preparation of inputs."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """The contents of files that the run needs and the export gives back, by name."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines about what the user must know."""

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        """Adds it to a gin file.

        Args:
          file: has the model and its data.
          directory: of the run, in which `files` are.
        """
