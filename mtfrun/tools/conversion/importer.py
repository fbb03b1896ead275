"""What an importer makes of the files of another program."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mtfrun import mtf


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model, or a whole run, of another program.

    Attributes:
      config: returns the text of config.gin, called with the directory of the run, in which files
        that the configuration names will be.
      values: returns values by checkpoint path, called with all variables that the configuration
        has by that path: "model/embedding/table", "optimizer/embedding/table/vr", "averages/...",
        "step". They have the shapes of the variables. All values of the model are needed;
        slots that are left out begin with 0. None for a configuration alone, without a checkpoint.
      step: the number of finished steps.
      files: contents of further files by their name in the directory, "tokenizer/spiece.model".
      record: JSON values for import.json, what an export needs to give back the same bytes.
      notes: lines about what was taken over and what was not, for the user.
    """

    config: Callable[[pathlib.Path], str]
    values: Callable[[Mapping[str, mtf.Variable]], Mapping[str, np.ndarray]] | None
    step: int = 0
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()


class Importer(Protocol):
    """Reads the files of one program."""

    def recognises(self, path: pathlib.Path) -> bool:
        """Returns whether there are files of this program at a path, without reading much."""

    def read(
        self, path: pathlib.Path, *, partial: bool, search_paths: Sequence[str] = ()
    ) -> Imported:
        """Imports a model or run.

        Args:
          path: a directory or file.
          search_paths: directories to search for included files.
          partial: leave out, with a note, what is not supported.

        Raises:
          ConversionError: the path cannot be imported.
        """
