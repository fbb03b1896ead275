"""Batches of texts with any number of labels, for encoders, and the vocabulary of the labels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import before_end
from mtfrun.extras.text_tasks.text_classification_data import (
    LabelVocabulary,
    TextClassificationData,
)


@dataclasses.dataclass(frozen=True)
class MultiLabelData(TextClassificationData):
    """Texts or pairs as inputs, and the ids of their labels and an end as the first targets.

    For `text_tasks.MultiLabelClassifier`, with a `LabelSetVocabulary` of the task's targets.
    """

    @property
    def num_targets(self) -> int:
        labels = self.vocabulary
        if not isinstance(labels, LabelSetVocabulary):
            raise DataError(
                f"MultiLabelData: the targets have {labels!r}: give them a LabelSetVocabulary"
            )
        return len(labels.labels) + 1

    @property
    def features(self) -> dict[str, mtf.Shape]:
        if self.length < self.num_targets:
            raise DataError(
                f"MultiLabelData.length={self.length} must be at least {self.num_targets}, the "
                "number of labels and their end"
            )
        return super().features


class LabelSetVocabulary(LabelVocabulary):
    """Ids from 0 on of labels; a text is several of them, or none, with `separator` between."""

    has_label_sets = True

    def __init__(self, labels: Sequence[str], separator: str = ","):
        super().__init__(labels, own_softmax=True)
        self._separator = separator
        wrong = [label for label in labels if separator in label or label != label.strip()]
        if wrong or not separator.strip():
            raise DataError(
                f"LabelSetVocabulary.separator={separator!r} is in the label "
                f"{(wrong or [''])[0]!r}, or spaces are around it: set another separator"
            )
        self.fingerprint = hashlib.sha256(repr(self).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"LabelSetVocabulary({list(self.labels)}, {self._separator!r})"

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text if isinstance(text, str) else text.decode("utf-8", "replace")
        names = [name.strip() for name in content.split(self._separator)]
        ids = [super(LabelSetVocabulary, self).encode(name) for name in names if name]
        return np.unique(np.concatenate([*ids, np.zeros([0], np.int32)])).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        names = (super(LabelSetVocabulary, self).decode([x]) for x in before_end(ids, self.end_id))
        return f"{self._separator} ".join(name for name in names if name)
