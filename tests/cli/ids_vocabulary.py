"""A vocabulary whose texts are ids, written as numbers, for models of reference data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


class IdsVocabulary:
    """Texts such as "71 16 1" for the ids 71, 16 and 1.

    Attributes:
      size: the number of ids.
    """

    pad_id, end_id, unknown_id = 0, 1, 2

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes_per_id = np.ones([size], np.int32)

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.array([int(word) for word in text.split()], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return " ".join(str(id_) for id_ in ids)

    def encode_documents(self, documents: tf.Tensor) -> tf.RaggedTensor:
        return tf.strings.to_number(tf.strings.split(documents), tf.int32)
