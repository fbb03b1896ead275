"""The vocabulary of class labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors import did_you_mean


class LabelVocabulary(Vocabulary):
    """One id for each label of a classification, from 3 on.

    Args:
      labels: the names of the classes, in the order of their ids.
    """

    pad_id = 0
    end_id = 1
    unknown_id = 2
    size: int = 0
    fingerprint: str = ""
    # Labels are not running text.
    sentinels = np.zeros([0], np.int32)
    bytes_per_id = np.zeros([0], np.int32)

    _first_label_id = 3

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self._id_of = {label: self._first_label_id + i for i, label in enumerate(self.labels)}
        if not self.labels or len(self._id_of) < len(self.labels):
            raise DataError("LabelVocabulary.labels: there must be one, and none twice")
        self.size = self._first_label_id + len(self.labels)
        self.bytes_per_id = np.zeros([self.size], np.int32)
        content = json.dumps(["LabelVocabulary", *self.labels])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"LabelVocabulary({list(self.labels)})"

    def encode(self, text: str | bytes) -> np.ndarray:
        label = text if isinstance(text, str) else text.decode("utf-8", "replace")
        if label not in self._id_of:
            raise DataError(
                f'"{label}" is none of LabelVocabulary.labels, {", ".join(self.labels)}'
                f"{did_you_mean(label, self.labels)}"
            )
        return np.array([self._id_of[label]], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the label of the first id, "" if it is not the id of a label."""
        first = np.asarray(ids).reshape(-1)[:1]
        number = int(first[0]) - self._first_label_id if first.size else -1
        return self.labels[number] if 0 <= number < len(self.labels) else ""
