"""Texts to the values that a task's metrics compare."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class LabelNumber:
    """Text to the number of a label, for metrics of classes.

    Attributes:
      labels: the texts, in the order of their numbers.

    Examples:
      >>> LabelNumber(["no", "yes"])(" yes")
      1
    """

    labels: Sequence[str]

    def __call__(self, text: str) -> int:
        """Returns the number; -1 for other texts. Spaces around a text do not count."""
        text = text.strip()
        return self.labels.index(text) if text in self.labels else -1


@dataclasses.dataclass(frozen=True)
class Number:
    """Text to a number, for correlations.

    Attributes:
      default: for a text that is not a finite number.

    Examples:
      >>> Number()("2.6"), Number()("two")
      (2.6, -1.0)
    """

    default: float = -1.0

    def __call__(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            return self.default
        return number if math.isfinite(number) else self.default


def unchanged(text: str) -> str:
    """Returns the text."""
    return text
