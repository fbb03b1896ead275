"""Batches of texts with a number each, for encoders, and the vocabulary of the numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import Range, check_range
from mtfrun.extras.text_tasks.text_classification_data import TextClassificationData

# At most so many ids, so that arrays of them are small.
_MOST_NUMBERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class TextRegressionData(TextClassificationData):
    """Texts or pairs as inputs, and the id of a number as the target of the first position.

    For `text_tasks.TextRegressor`, with a `NumberVocabulary` of the task's targets.
    """

    def model_arguments(self) -> dict[str, object]:
        numbers = self.vocabulary
        if not isinstance(numbers, NumberVocabulary):
            raise DataError(
                f"TextRegressionData: the targets have {numbers!r}: give them a NumberVocabulary"
            )
        size = self.mixture.vocabulary_of("inputs").size
        return {"vocabulary_size": size, "numbers": numbers.numbers}


class NumberVocabulary(Vocabulary):
    """The numbers minimum, minimum + 10^-decimals, ..., maximum; their ids count from 0.

    Texts are numbers in decimals, which are rounded.

    Attributes:
      numbers: float64 [ids] the number of each id.
    """

    pad_id: int = -1
    end_id: int = 0
    unknown_id: int = 0
    size: int = 0
    fingerprint: str = ""
    # Numbers are not running text.
    sentinels = np.zeros([0], np.int32)
    bytes_per_id = np.zeros([0], np.int32)

    def __init__(self, minimum: float = 0.0, maximum: float = 5.0, decimals: int = 3):
        check_range("NumberVocabulary.decimals", decimals, Range(0, 6, whole=True))
        last = round((maximum - minimum) * 10**decimals)
        if not 0 < last < _MOST_NUMBERS:
            raise DataError(
                f"NumberVocabulary: from minimum={minimum} to maximum={maximum} there must be 2 to "
                f"{_MOST_NUMBERS:,} numbers of decimals={decimals}: there are {last + 1:,}"
            )
        self._minimum, self._maximum, self._decimals = minimum, maximum, decimals
        self.numbers = minimum + np.arange(last + 1) / 10**decimals
        # Behind the numbers: stored texts have an end, which is not trained on.
        self.end_id, self.unknown_id, self.size = last + 1, last + 2, last + 3
        self.bytes_per_id = np.zeros([self.size], np.int32)
        self.fingerprint = hashlib.sha256(repr(self).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"NumberVocabulary({self._minimum}, {self._maximum}, {self._decimals})"

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text if isinstance(text, str) else text.decode("utf-8", "replace")
        try:
            number = float(content)
        except ValueError:
            number = math.nan
        if not self._minimum <= number <= self._maximum:
            raise DataError(
                f'"{content}" is not a number from {self._minimum} to {self._maximum}: see '
                "NumberVocabulary.minimum and maximum"
            )
        return np.array([round((number - self._minimum) * 10**self._decimals)], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the number of the first id, "" if it is not the id of a number."""
        first = int(np.asarray(ids).reshape(-1)[0]) if len(ids) else -1
        is_number = 0 <= first < len(self.numbers)
        return f"{self.numbers[first]:.{self._decimals}f}" if is_number else ""
