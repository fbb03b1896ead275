"""Text to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf


class Vocabulary(Protocol):
    """What models, pipelines and decoding need to know of a vocabulary.

    `bytes_per_id` [size] int32 says how many bytes of text each id stands for (0 for padding, the
    end and every other special id). So `bytes_per_id[targets].sum()` is the number of bytes in a
    batch, and bits per byte = (sum of the loss in nats over all targets) / ln 2 / (that number).
    The end id's loss is in the numerator, because a code for several documents must say where each
    one ends, but it adds no byte to the denominator.
    """

    @property
    def size(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def unknown_id(self) -> int: ...
    @property
    def bytes_per_id(self) -> np.ndarray: ...

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 ids of `text`, without an end id."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end id. No id makes it fail."""

    def encode_documents(self, documents: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids [documents, (length)] of strings [documents]; runs inside tf.data."""


class ByteVocabulary:
    """UTF-8 bytes as ids, numbered as in ByT5: 0 pads, 1 ends, 2 is unknown, a byte b is b + 3.

    The 259 ids are padded to 384 so that a mesh axis can divide the vocabulary.
    Source: Xue et al. 2021, "ByT5", https://arxiv.org/abs/2105.13626.

    >>> vocabulary = ByteVocabulary()
    >>> vocabulary.encode("né").tolist()
    [113, 198, 172]
    >>> vocabulary.decode([113, 198, 172, 1, 113])
    'né'
    >>> vocabulary.decode([113, 198, 300])  # half a character, and an id that is no byte
    'n\ufffd\ufffd'
    """

    size = 384
    pad_id = 0
    end_id = 1
    unknown_id = 2

    _first_byte_id = 3
    _invalid_byte = 0xFF  # occurs in no UTF-8 text, so it decodes to the replacement character

    @property
    def bytes_per_id(self) -> np.ndarray:
        ids = np.arange(self.size)
        return self._is_byte(ids).astype(np.int32)

    def encode(self, text: str | bytes) -> np.ndarray:
        # A lone surrogate (JSON can hold one) has no UTF-8; its three-byte form is better than a
        # crash.
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32) + self._first_byte_id

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        ends = np.flatnonzero(array == self.end_id)
        if ends.size:
            array = array[: ends[0]]
        array = array[array != self.pad_id]
        data = np.where(self._is_byte(array), array - self._first_byte_id, self._invalid_byte)
        return data.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def encode_documents(self, documents: tf.Tensor) -> tf.RaggedTensor:
        # One decode of all documents together; decode_raw of each would pad to the longest.
        data = tf.io.decode_raw(tf.strings.reduce_join(documents), tf.uint8)
        ids = tf.cast(data, tf.int32) + self._first_byte_id
        return tf.RaggedTensor.from_row_lengths(ids, tf.strings.length(documents), validate=False)

    def _is_byte(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= self._first_byte_id) & (ids < self._first_byte_id + 256)
