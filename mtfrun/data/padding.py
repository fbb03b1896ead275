"""The share of a batch that is padding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.rows import Batch


class Padding(NamedTuple):
    """Positions of batches of texts.

    Attributes:
      empty: those that hold no token.
      positions: all.
    """

    empty: int
    positions: int


def padding_of(batch: Batch) -> Padding:
    """Returns the positions of inputs and targets; no positions for batches without text.

    >>> padding_of({"targets": np.array([[5, 1, 0, 0]])})
    Padding(empty=2, positions=4)
    """
    empty = positions = 0
    for name in (INPUTS, TARGETS):
        ids = batch.get(name)
        if ids is None or ids.ndim != 2:  # a class is no text
            continue
        # Targets that have no loss may be 0 as well where segments say what is padding.
        occupied = batch.get(f"{name}_segmentation", ids)
        empty += occupied.size - int(np.count_nonzero(occupied))
        positions += occupied.size
    return Padding(empty, positions)
