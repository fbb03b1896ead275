"""Sentinels: one id in the place of a run of ids."""

from __future__ import annotations

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.objectives.objective import FeatureLengths, RawText
from mtfrun.data.rows import Batch
from mtfrun.data.vocabularies import Vocabulary


def denoised(
    text: RawText, is_noise: np.ndarray, lengths: FeatureLengths, vocabulary: Vocabulary
) -> Batch:
    """Returns inputs without noise, and targets that are the noise.

    Every run of noise is one sentinel in the inputs, and every run of other ids is one in the
    targets; both count them from the first on. So the inputs "a <0> d <1>" and the targets
    "<0> b c <1> e" make the text "a b c d e". Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683, section 3.1.4 and figure 2.

    `is_noise` is bool [batch, raw_length], False after a text.
    """
    return {
        INPUTS: with_sentinels(text, is_noise, lengths.inputs, vocabulary),
        TARGETS: with_sentinels(text, text.is_id & ~is_noise, lengths.targets, vocabulary),
    }


def with_sentinels(
    text: RawText, is_replaced: np.ndarray, length: int, vocabulary: Vocabulary
) -> np.ndarray:
    """Returns int32 [batch, length]: the ids, with a sentinel for each run that is replaced.

    The end id follows; ids that do not fit before it are cut. `is_replaced` is bool
    [batch, raw_length], False after a text.
    """
    begins = is_replaced.copy()
    begins[:, 1:] &= ~is_replaced[:, :-1]
    number_of_run = np.cumsum(begins, axis=1, dtype=np.int32) - 1
    values = np.where(begins, vocabulary.sentinels[number_of_run], text.ids)
    is_selected = text.is_id & (begins | ~is_replaced)
    return compacted(values, is_selected, length, vocabulary.end_id)


def compacted(values: np.ndarray, is_selected: np.ndarray, length: int, end_id: int) -> np.ndarray:
    """Returns the selected values, moved together, and the end id; int32 [batch, length].

    `values` and `is_selected` are [batch, raw_length]. The result is padded with 0; ids that do not
    fit before the end are cut.
    """
    batch = len(values)
    column = np.cumsum(is_selected, axis=1, dtype=np.int32) - 1
    first = np.arange(0, batch * length, length)
    # Flat indices: they are much faster than pairs of row and column.
    selected = np.flatnonzero(is_selected & (column < length - 1))
    places = (column + first[:, None]).reshape(-1)[selected]
    ids = np.zeros(batch * length, np.int32)
    ids[places] = values.reshape(-1)[selected]
    ids[first + np.minimum(column[:, -1] + 1, length - 1)] = end_id
    return ids.reshape(batch, length)


def check_sentinels(objective: object, runs: int, vocabulary: Vocabulary) -> None:
    available = len(vocabulary.sentinels)
    if runs > available:
        raise DataError(
            f"{objective} needs {runs} sentinels for a row, and {type(vocabulary).__name__} has "
            f"{available}: choose shorter rows, longer spans, or a vocabulary with more extra_ids"
        )
