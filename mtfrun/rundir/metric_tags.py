"""Names of the entries of metrics that are vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_ENTRY = re.compile(r"(.*)/(\d+)")


def entries(values: Mapping[str, np.ndarray | float]) -> dict[str, float]:
    """Returns every entry of a vector "load" as "load/0", "load/1", ..., and numbers unchanged.

    Examples:
      >>> entries({"loss": 2.0, "load": np.array([0.25, 0.75])})
      {'loss': 2.0, 'load/0': 0.25, 'load/1': 0.75}
    """
    named: dict[str, float] = {}
    for name, value in values.items():
        array = np.asarray(value)
        if array.ndim == 0:
            named[name] = float(array)
        else:
            named.update((f"{name}/{i}", float(entry)) for i, entry in enumerate(array.ravel()))
    return named


def vectors(named: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Returns the vectors whose entries `entries` named; numbers are left out.

    Examples:
      >>> vectors({"loss": 2.0, "load/0": 0.25, "load/1": 0.75})
      {'load': array([0.25, 0.75])}
    """
    entries_by_name: dict[str, list[float]] = {}
    for name, value in named.items():
        match = _ENTRY.fullmatch(name)
        # A name such as "blocks/2" belongs to a vector only after "blocks/0" and "blocks/1".
        if match and int(match[2]) == len(entries_by_name.get(match[1], [])):
            entries_by_name.setdefault(match[1], []).append(value)
    return {name: np.array(entries) for name, entries in entries_by_name.items()}
