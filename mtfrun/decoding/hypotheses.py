"""What decoding returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtfrun import mtf

END_ID = 1

# Stands for minus infinity in scores, as in the original: sums of it stay finite.
INFINITY = 1e7
# Scores below are of places that nothing has filled.
_UNFILLED_BELOW = -1e6


class Hypotheses(NamedTuple):
    """Sequences for every row of a batch, best first.

    Attributes:
      ids: {batch, beam, length} int32, 0 after the end id.
      scores: {batch, beam} float32: of a beam search the log-probability over the length penalty
        (for rows where nothing has ended the log-probability), else the log-probability of all ids
        that were not given.
      finished: {batch, beam} bool: whether the sequence has ended.
    """

    ids: mtf.Tensor
    scores: mtf.Tensor
    finished: mtf.Tensor


def n_best(
    ids: np.ndarray, scores: np.ndarray, finished: np.ndarray
) -> list[tuple[np.ndarray, float, bool]]:
    """Returns (ids, score, finished) of one row's hypotheses on the host, without empty places.

    Args:
      ids: [beam, length].
      scores, finished: [beam].
    """
    # Where a sequence has ended, those that have not are what the search had not filled.
    wanted = (scores > _UNFILLED_BELOW) & (finished | ~finished.any())
    return [(ids[i], float(scores[i]), bool(finished[i])) for i in np.flatnonzero(wanted)]
