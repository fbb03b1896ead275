"""The vocabulary of the values of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mtfrun.data.vocabularies.vocabulary import NO_END, EncodedTexts, Vocabulary


class PixelVocabulary(Vocabulary):
    """Bytes as the ids 0 to 255, without an end: images of 8 bits a value, see `PixelData`.

    Padding is -1. A text has a character for each byte, U+0000 to U+00FF.
    """

    size: int = 256
    pad_id: int = -1
    end_id: int = NO_END
    unknown_id: int = 0
    sentinels = np.zeros([0], np.int32)
    # Bits per byte are bits per value of a pixel.
    bytes_per_id = np.ones([256], np.int32)
    fingerprint: str = hashlib.sha256(b"PixelVocabulary").hexdigest()

    def __repr__(self) -> str:
        return "PixelVocabulary()"

    @property
    def token_bytes(self) -> Sequence[bytes]:
        return [bytes([value]) for value in range(self.size)]

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text.encode("latin-1", "replace") if isinstance(text, str) else text
        return np.frombuffer(content, np.uint8).astype(np.int32)

    def encode_texts(self, texts: Sequence[bytes]) -> EncodedTexts:
        lengths = np.array([len(text) for text in texts], np.int64)
        return EncodedTexts(self.encode(b"".join(texts)), lengths)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        values = np.asarray(ids, np.int64).reshape(-1)
        values = values[values >= 0]
        return np.minimum(values, self.size - 1).astype(np.uint8).tobytes().decode("latin-1")
