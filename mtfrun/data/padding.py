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

    Examples:
      >>> padding_of({"targets": np.array([[5, 1, 0, 0]])})
      Padding(empty=2, positions=4)
    """
    empty = positions = 0
    for name in (INPUTS, TARGETS):
        ids = batch.get(name)
        if ids is None or ids.ndim != 2:  # a class is no text
            continue
        empty += ids.size - int(np.count_nonzero(occupied(batch, name)))
        positions += ids.size
    return Padding(empty, positions)


def occupied(features: Batch, name: str) -> np.ndarray:
    """Returns which positions of a feature of ids hold a token, bool of its shape.

    Segments say so where there are any. Else an id of 0 is padding, and -1 in rows that have it,
    but for targets with gaps: those of a masked language model, which has a target for some of its
    inputs only.

    Examples:
      >>> batch = {"inputs": np.array([[5, 9, 1, 0]]), "targets": np.array([[0, 7, 0, 0]])}
      >>> occupied(batch, "targets").tolist()
      [[True, True, True, False]]
    """
    ids = features[name]
    segmentation = features.get(f"{name}_segmentation")
    if segmentation is not None:
        return np.not_equal(segmentation, 0)
    is_id = np.not_equal(ids, -1 if (ids == -1).any() else 0)
    inputs = features.get(INPUTS)
    has_gaps = bool((~is_id[..., :-1] & is_id[..., 1:]).any())
    if name == TARGETS and has_gaps and inputs is not None and inputs.shape == ids.shape:
        return np.not_equal(inputs, 0)
    return is_id
