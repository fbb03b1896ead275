"""Ids with a mark each, in one number, so that a cache has both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.data.vocabularies.vocabulary import Vocabulary


class MarkedVocabulary(Vocabulary):
    """The ids of a vocabulary, larger by its size where they are marked; subclasses encode."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @property
    def size(self) -> int:
        return 2 * self._vocabulary.size

    @property
    def pad_id(self) -> int:
        return self._vocabulary.pad_id

    @property
    def end_id(self) -> int:
        return self._vocabulary.end_id

    @property
    def unknown_id(self) -> int:
        return self._vocabulary.unknown_id

    @property
    def sentinels(self) -> np.ndarray:
        return np.zeros([0], np.int32)

    @property
    def bytes_per_id(self) -> np.ndarray:
        return np.tile(self._vocabulary.bytes_per_id, 2)

    @property
    def token_bytes(self) -> Sequence[bytes]:
        return [*self._vocabulary.token_bytes] * 2

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._vocabulary.decode(self.divide(np.asarray(ids))[0])

    def mark(self, ids: np.ndarray, is_marked: np.ndarray) -> np.ndarray:
        return ids + np.int32(self._vocabulary.size) * is_marked

    def divide(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids of the vocabulary, and bool whether they are marked; same shapes."""
        return divide_marked(ids, self._vocabulary.size)


def divide_marked(ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`MarkedVocabulary.divide` of a vocabulary of this size."""
    is_marked = ids >= size
    return np.where(is_marked, ids - size, ids), is_marked
