"""Metrics with a dimension under the names of single numbers, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_ENTRY = re.compile(r"(.*)/(\d+)")


def entries(values: Mapping[str, np.ndarray | float]) -> dict[str, float]:
    """Returns every entry of a vector "load" as "load/0", "load/1", ..., numbers as they are.

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
    """Returns the vectors that `entries` took apart, without the numbers.

    >>> vectors({"loss": 2.0, "load/0": 0.25, "load/1": 0.75})
    {'load': array([0.25, 0.75])}
    """
    found: dict[str, list[float]] = {}
    for name, value in named.items():
        match = _ENTRY.fullmatch(name)
        # A name like "blocks/0" that belongs to no vector would not begin at its first entry.
        if match and int(match[2]) == len(found.get(match[1], [])):
            found.setdefault(match[1], []).append(value)
    return {name: np.array(items) for name, items in found.items()}
