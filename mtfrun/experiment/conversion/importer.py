from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.rundir import RunDirectory


class ConversionError(InputError):
    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model, or a whole run, of another program.

    Attributes:
      config: returns config.gin's text; called with the run's directory, where `files` will be.
      values: returns the variables' values by checkpoint path; called with the variables by path:
        "model/embedding/table", "optimizer/embedding/table/vr", "averages/...", "step". All values
        of the model are needed; omitted slots start with 0. None without a checkpoint.
      files: contents by their name in the directory, "tokenizer/spiece.model".
      record: JSON values for import.json, with which an export returns the same bytes.
      metadata: further entries of the checkpoint's manifest.
      base: the run whose model an imported adapter is for; None for a model.
      notes: lines for the user about what was imported or left out.
    """

    config: Callable[[pathlib.Path], str]
    values: Callable[[Mapping[str, mtf.Variable]], Mapping[str, np.ndarray]] | None
    step: int = 0
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    base: pathlib.Path | None = None
    notes: Sequence[str] = ()


class Importer(Protocol):
    """Reads models of another program; entry points of the group "mtfrun.importers" name classes.

    They are called without arguments, and asked in order, mtfrun's last. Importing the module of a
    class must not import TensorFlow: every command starts with it.

    Attributes:
      description: the files that it reads, in one line, for the help text and for errors.
      needs_base: whether a model is an adapter, for the model of the run that --base names.
    """

    description: str
    needs_base: bool

    def recognises(self, path: pathlib.Path) -> bool:
        """Returns whether `read` is for these files; must not read much."""

    def read(
        self,
        path: pathlib.Path,
        *,
        partial: bool = False,
        search_paths: Sequence[str] = (),
        base: RunDirectory | None = None,
    ) -> Imported:
        """Raises ConversionError for files that it cannot read.

        Args:
          path: a folder or a file, untrusted.
          partial: whether to leave out, with a note, settings that are not supported.
          search_paths: further directories of files that other files include.
          base: the run of --base; None unless `needs_base`.
        """
