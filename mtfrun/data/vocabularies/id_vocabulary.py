"""The vocabulary of ids in decimals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import NO_END, Vocabulary, before_end
from mtfrun.errors.checks import Range, check_range


class IdVocabulary(Vocabulary):
    """Texts that are ids in decimals, separated by spaces: for models without a tokenizer.

    Args:
      end_id: the id that ends a text; without one (None) outputs end at their largest length, and
        texts cannot be trained on.
      pad_id: 0, or -1 where 0 is an ordinary id.
      mask_id: the mask of masked language models, the only sentinel, if any.

    Examples:
      >>> IdVocabulary(160).encode("24 145 84").tolist()
      [24, 145, 84]
      >>> IdVocabulary(160).decode([24, 145, 1, 0, 0])
      '24 145'
    """

    size: int = 0
    pad_id: int = 0
    end_id: int = 1
    unknown_id = 2
    fingerprint: str = ""
    sentinels = np.zeros([0], np.int32)

    def __init__(
        self, size: int, end_id: int | None = 1, pad_id: int = 0, mask_id: int | None = None
    ) -> None:
        if pad_id not in (0, -1):
            raise DataError(f"IdVocabulary: pad_id={pad_id} must be 0 or -1")
        ids = Range(pad_id + 1, size - 1, whole=True)
        check_range("IdVocabulary.end_id", end_id, ids, optional=True)
        check_range("IdVocabulary.mask_id", mask_id, ids._replace(lowest=0), optional=True)
        if mask_id is not None:
            self.sentinels = np.array([mask_id], np.int32)
        self.size = size
        self.end_id = NO_END if end_id is None else end_id
        self.pad_id = pad_id
        self.fingerprint = hashlib.sha256(repr(self).encode()).hexdigest()

    @property
    def bytes_per_id(self) -> np.ndarray:
        digits = np.array([len(str(i)) + 1 for i in range(self.size)], np.int32)
        digits[[i for i in (self.pad_id, self.end_id) if i >= 0]] = 0
        return digits

    @property
    def token_bytes(self) -> Sequence[bytes]:
        special = (self.pad_id, self.end_id)
        return [b"" if i in special else b" %d" % i for i in range(self.size)]

    def __repr__(self) -> str:
        end_id = None if self.end_id == NO_END else self.end_id
        mask = "".join(f", mask_id={mask_id}" for mask_id in self.sentinels)
        return f"IdVocabulary({self.size}, end_id={end_id}, pad_id={self.pad_id}{mask})"

    def encode(self, text: str | bytes) -> np.ndarray:
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        words = text.split()
        for word in words:
            if not (word.isascii() and word.isdecimal() and int(word) < self.size):
                rule = "texts are ids in decimals, separated by spaces: the model has no tokenizer"
                remedy = "for words name its tokenizer, see data/sentencepiece.gin"
                raise DataError(f"{word[:20]!r} is not an id below {self.size}: {rule}; {remedy}")
        return np.array([int(word) for word in words], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.decode_output(before_end(ids, self.end_id), continues=False)

    def decode_output(self, ids: np.ndarray, *, continues: bool) -> str:
        del continues
        return " ".join(str(i) for i in ids if i != self.pad_id)
