"""The vocabulary of bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mtfrun.data.vocabularies.vocabulary import (
    EncodedTexts,
    Vocabulary,
    as_bytes,
    before_end,
    model_size,
)


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes as ids of ByT5: 0 is padding, 1 the end, 2 unknown, and b + 3 the byte b.

    Xue et al. 2021, "ByT5", https://arxiv.org/abs/2105.13626. As in ByT5, the 259 ids are padded to
    384, so that a mesh axis can divide the vocabulary, and the sentinels are the last 100 ids of
    bytes from the end, 258, 257, ..., 159 (section 3.1): not ASCII. The ids from 259 on, Hugging
    Face's <extra_id_0>, ..., were not trained.

    Args:
      size: the number of ids of a model, at least 259.

    Examples:
      >>> vocabulary = ByteVocabulary()
      >>> vocabulary.encode("né").tolist()
      [113, 198, 172]
      >>> vocabulary.decode([113, 198, 300])  # half a character, and an id that is not a byte
      'n\ufffd\ufffd'
    """

    pad_id = 0
    end_id = 1
    unknown_id = 2
    unpadded_size = 259  # special ids and bytes
    size: int = 384
    sentinels = np.arange(258, 158, -1, dtype=np.int32)
    bytes_per_id = np.zeros([0], np.int32)

    _first_byte_id = 3
    _last_byte_id = 258
    _invalid_byte = 0xFF  # never occurs in UTF-8, so that it decodes to the replacement character

    def __init__(self, size: int = 384) -> None:
        self.size = model_size("a vocabulary of bytes", self._last_byte_id + 1, size)
        self.bytes_per_id = self._is_byte(np.arange(size)).astype(np.int32)

    @property
    def token_bytes(self) -> Sequence[bytes]:
        first, last = self._first_byte_id, self._last_byte_id
        all_bytes = [bytes([byte]) for byte in range(last - first + 1)]
        return [b""] * first + all_bytes + [b""] * (self.size - last - 1)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"ByteVocabulary {self.size}".encode()).hexdigest()

    def __repr__(self) -> str:
        return f"ByteVocabulary({'' if self.size == 384 else self.size})"

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.frombuffer(as_bytes(text), np.uint8).astype(np.int32) + self._first_byte_id

    def encode_texts(self, texts: Sequence[bytes]) -> EncodedTexts:
        lengths = np.array([len(text) for text in texts], np.int64)
        return EncodedTexts(self.encode(b"".join(texts)), lengths)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text before the first end id, with U+FFFD for bytes that are not UTF-8."""
        array = before_end(ids, self.end_id)
        array = array[array != self.pad_id]
        data = np.where(self._is_byte(array), array - self._first_byte_id, self._invalid_byte)
        return data.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def _token_text(self, token: int) -> str:
        if not self._first_byte_id <= token <= self._last_byte_id:
            return ""
        byte = token - self._first_byte_id
        return chr(byte) if byte < 128 else f"\\x{byte:02x}"

    def _is_byte(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= self._first_byte_id) & (ids <= self._last_byte_id)
