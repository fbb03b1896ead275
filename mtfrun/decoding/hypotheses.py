"""The hypotheses that decoding returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtfrun import mtf

END_ID = 1

# -INFINITY stands for minus infinity in scores, as in Mesh TensorFlow: sums of it are finite.
INFINITY = 1e7
# Lower scores belong to empty places.
EMPTY_BELOW = -1e6


class Hypotheses(NamedTuple):
    """Sequences for every row of a batch, best first.

    Attributes:
      ids: {batch, beam, length} int32, 0 after the end id.
      scores: {batch, beam} float32: of a beam search the log-probability divided by the length
        penalty (not divided in rows without a finished sequence), else the log-probability of all
        ids after the prompt.
      finished: {batch, beam} bool.
    """

    ids: mtf.Tensor
    scores: mtf.Tensor
    finished: mtf.Tensor


def n_best(
    ids: np.ndarray, scores: np.ndarray, finished: np.ndarray
) -> list[tuple[np.ndarray, float, bool]]:
    """Returns (ids, score, finished) of one row's [beam, ...] hypotheses, without empty places."""
    filled = np.flatnonzero(scores > EMPTY_BELOW)
    return [(ids[i], float(scores[i]), bool(finished[i])) for i in filled]
