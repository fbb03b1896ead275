"""Vocabularies: text to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf


class Vocabulary(Protocol):
    """Interface of vocabularies, for models, data and decoding."""

    @property
    def size(self) -> int:
        """Number of ids."""

    @property
    def pad_id(self) -> int:
        """The id of padding."""

    @property
    def end_id(self) -> int:
        """The id that ends a text."""

    @property
    def unknown_id(self) -> int:
        """The id of what the vocabulary cannot represent."""

    @property
    def bytes_per_id(self) -> np.ndarray:
        """[size] int32 bytes of text that each id represents, 0 for every special id.

        So `bytes_per_id[targets].sum()` is the number of bytes of a batch, and bits per byte =
        (sum of the loss in nats over all targets) / ln 2 / (that number). The loss of the end id is
        part of the numerator, because a code for several documents must encode where each one ends,
        but it adds no byte to the denominator.
        """

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 ids of `text`, without an end id."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end id; accepts all ids."""

    def encode_documents(self, documents: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids [documents, (length)] of strings [documents]; runs inside tf.data."""


class ByteVocabulary:
    """UTF-8 bytes as ids of ByT5: 0 is padding, 1 the end, 2 unknown, and b + 3 the byte b.

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
    _invalid_byte = 0xFF  # never occurs in UTF-8, so that it decodes to the replacement character

    @property
    def bytes_per_id(self) -> np.ndarray:
        """1 for ids of bytes, 0 for all others."""
        ids = np.arange(self.size)
        return self._is_byte(ids).astype(np.int32)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the ids of the bytes of `text`."""
        # A lone surrogate, which JSON may contain, has no UTF-8; it is encoded in three bytes.
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32) + self._first_byte_id

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end id, with U+FFFD for what is no UTF-8."""
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        ends = np.flatnonzero(array == self.end_id)
        if ends.size:
            array = array[: ends[0]]
        array = array[array != self.pad_id]
        data = np.where(self._is_byte(array), array - self._first_byte_id, self._invalid_byte)
        return data.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def encode_documents(self, documents: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of the bytes of each document."""
        # One decode of all documents together; decode_raw of each would pad to the longest.
        data = tf.io.decode_raw(tf.strings.reduce_join(documents), tf.uint8)
        ids = tf.cast(data, tf.int32) + self._first_byte_id
        return tf.RaggedTensor.from_row_lengths(ids, tf.strings.length(documents), validate=False)

    def _is_byte(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= self._first_byte_id) & (ids < self._first_byte_id + 256)
