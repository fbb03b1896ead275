"""Collation of texts into rows: one pass over the tokens of a batch, without a loop in Python."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Texts(NamedTuple):
    """Beginnings of texts in a sequence of tokens: `sizes` ids, at least 1, from `starts`.

    Where the whole text does not end there but at `stops`, the last id that is read is replaced by
    the whole text's last one, its end id. All int64 [texts].
    """

    starts: np.ndarray
    sizes: np.ndarray
    stops: np.ndarray


class Collated(NamedTuple):
    """Texts one after the other, int32 [rows, length].

    Segments count from 1 in each row, positions from 0 in each segment; padding has 0.
    """

    ids: np.ndarray
    segmentation: np.ndarray
    position: np.ndarray


def collate(
    tokens: np.ndarray,
    texts: Texts,
    counts: np.ndarray,
    length: int,
    texts_per_segment: int = 1,
    padding_id: int = 0,
) -> Collated:
    """Returns rows of texts from a sequence of tokens.

    `counts` [rows] is the number of texts in each row, which have at most `length` ids together.
    `texts_per_segment` is 2 for segments that are pairs; it divides all `counts`.

    Examples:
      >>> texts = Texts(np.array([0, 2, 5]), np.array([2, 3, 2]), np.array([2, 5, 9]))
      >>> tokens = np.array([8, 1, 6, 7, 1, 4, 5, 3, 1])
      >>> rows = collate(tokens, texts, np.array([2, 1]), 6)
      >>> rows.ids.tolist(), rows.segmentation.tolist()
      ([[8, 1, 6, 7, 1, 0], [4, 1, 0, 0, 0, 0]], [[1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0]])
    """
    rows = counts.size
    # Every row becomes a sequence of runs: its texts, and padding. So whatever is constant in a run
    # is repeated, which is much faster than to scatter it.
    paddings = np.cumsum(counts) + np.arange(rows)
    is_text = np.ones(texts.sizes.size + rows, bool)
    is_text[paddings] = False
    sizes = np.empty(is_text.size, np.int64)
    sizes[is_text] = texts.sizes
    sums = np.concatenate([[0], np.cumsum(texts.sizes)])
    stops = np.cumsum(counts)
    sizes[paddings] = length - (sums[stops] - sums[stops - counts])
    first = np.cumsum(sizes) - sizes  # index of each run in the flat rows

    segment = np.zeros(is_text.size, np.int32)
    segment[is_text] = indices_within(counts) // texts_per_segment + 1
    origin = first.astype(np.int32)  # where the run's segment begins
    if texts_per_segment > 1:
        origin[is_text] = np.repeat(origin[is_text][::texts_per_segment], texts_per_segment)
    shift = -first
    shift[is_text] += texts.starts

    flat = np.arange(rows * length)
    ids = np.take(tokens, flat + np.repeat(shift, sizes), mode="clip").astype(np.int32)
    (trimmed,) = np.nonzero(texts.starts + texts.sizes != texts.stops)
    if trimmed.size:
        last = first[is_text][trimmed] + texts.sizes[trimmed] - 1
        ids[last] = tokens[texts.stops[trimmed] - 1]
    segmentation = np.repeat(segment, sizes)
    position = flat.astype(np.int32) - np.repeat(origin, sizes)
    if sizes[paddings].any():
        present = segmentation != 0
        ids *= present
        if padding_id:
            ids[~present] = padding_id
        position *= present
    shape = (rows, length)
    return Collated(ids.reshape(shape), segmentation.reshape(shape), position.reshape(shape))


def indices_within(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., count - 1 for every count: 0, 1, 0, 1, 2 for counts 2, 0, 3."""
    first = np.cumsum(counts) - counts
    indices: np.ndarray = np.arange(counts.sum()) - np.repeat(first, counts)
    return indices
