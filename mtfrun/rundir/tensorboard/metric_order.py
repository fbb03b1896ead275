"""Which of two values of a metric is the better one."""

from __future__ import annotations

import re

# Of these more is worse; of accuracy, BLEU, F1 and whatever else is measured, less.
_LOWER_IS_BETTER = re.compile(
    r"loss|perplexity|bits_per_byte|entropy|error|distance|edit|dropped|padding|nll|\bwer\b|\bcer\b"
)


def is_lower_better(metric: str) -> bool:
    """Returns whether the best value of a metric is the smallest one, by its name.

    Examples:
      >>> is_lower_better("eval/loss"), is_lower_better("accuracy"), is_lower_better("bleu")
      (True, False, False)
    """
    return bool(_LOWER_IS_BETTER.search(metric.lower()))


def is_better(metric: str, value: float, than: float) -> bool:
    """Returns whether a value of a metric is better than another one."""
    return value < than if is_lower_better(metric) else value > than
