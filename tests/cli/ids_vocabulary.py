"""A vocabulary whose texts are ids, written as numbers, for models of reference data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.data import Vocabulary


class IdsVocabulary(Vocabulary):
    """Texts such as "71 16 1" for the ids 71, 16 and 1.

    Attributes:
      size: the number of ids.
    """

    size = 0
    pad_id, end_id, unknown_id = 0, 1, 2
    sentinels = np.zeros([0], np.int32)
    bytes_per_id = np.zeros([0], np.int32)

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes_per_id = np.ones([size], np.int32)

    @property
    def fingerprint(self) -> str:
        return f"IdsVocabulary {self.size}"

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.array([int(word) for word in text.split()], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return " ".join(str(id_) for id_ in ids)
