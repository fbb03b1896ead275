"""Reads the reference values that lie beside this file; see README.md there."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ReferenceCase:
    """One call of the original.

    Attributes:
      name: the case's name in its file.
      hparams: the arguments of the call.
      arrays: the values by `<role>/<name>`, such as "in/w_init".
      dims: the names of the dimensions of each array.
    """

    name: str
    hparams: dict[str, Any]
    arrays: dict[str, np.ndarray]
    dims: dict[str, list[str]]

    def with_role(self, role: str) -> dict[str, np.ndarray]:
        """Returns the arrays of one role by name, `{"w_init": ...}` for "in"."""
        prefix = f"{role}/"
        return {
            key.removeprefix(prefix): array
            for key, array in self.arrays.items()
            if key.startswith(prefix)
        }


@functools.cache
def reference_cases(file: str) -> dict[str, ReferenceCase]:
    """Returns all cases of `<file>.npz` by name."""
    description = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / f"{file}.npz") as stored:
        return {
            name: ReferenceCase(
                name=name,
                hparams=case["hparams"],
                arrays={key: stored[f"{name}/{key}"] for key in case["arrays"]},
                dims={key: array.get("dims", []) for key, array in case["arrays"].items()},
            )
            for name, case in description["cases"].items()
        }
