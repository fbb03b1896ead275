"""The two errors of named tensors, and the nearest-name hint that they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShapeError(ValueError):
    """Dimensions that do not fit together: unknown, repeated, of the wrong size."""


class LayoutError(ValueError):
    """A layout that cannot be realised on its mesh."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the known name nearest to `name`, or "".

    >>> did_you_mean("modle", ["data", "model"])
    ", did you mean 'model'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
