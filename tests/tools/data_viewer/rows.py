"""Rows of batches for tests."""

from __future__ import annotations

import numpy as np

from mtfrun.data import ByteVocabulary
from mtfrun.tools.data_viewer.row_view import RowView, row_views

VOCABULARY = ByteVocabulary()


def packed_row(*texts: str, length: int) -> dict[str, np.ndarray]:
    """Returns a batch of one row that holds the texts."""
    ids = [[*VOCABULARY.encode(text).tolist(), VOCABULARY.end_id] for text in texts]
    columns = {
        "targets": [number for segment in ids for number in segment],
        "targets_segmentation": [i + 1 for i, segment in enumerate(ids) for _ in segment],
        "targets_position": [position for segment in ids for position in range(len(segment))],
    }
    return {
        name: np.array([[*values, *[0] * (length - len(values))]], np.int32)
        for name, values in columns.items()
    }


def views(batch: dict[str, np.ndarray]) -> list[RowView]:
    """Returns the rows of a batch of ids of bytes, and of labels of three classes."""
    vocabularies = {"inputs": VOCABULARY, "targets": VOCABULARY}
    return row_views(batch, vocabularies, {"labels": ["cat", "dog", "cow"]})
