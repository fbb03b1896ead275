from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError


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
    def recognises(self, path: pathlib.Path) -> bool:
        """Must not read much."""

    def read(
        self, path: pathlib.Path, *, partial: bool, search_paths: Sequence[str] = ()
    ) -> Imported:
        """Raises ConversionError; `partial` leaves out, with a note, what is not supported."""
