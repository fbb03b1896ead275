"""Metrics that follow from sums over a whole split."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def means(totals: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Returns total / weight of every metric; a metric without weight is 0."""
    return {name: total / max(weights[name], 1e-9) for name, total in totals.items()}


def perplexity(nats_per_token: float) -> float:
    """Returns exp(loss): the number of equally likely tokens that are as hard to guess."""
    return math.exp(min(nats_per_token, 700.0))  # exp(710) overflows


def bits_per_byte(total_nats: float, num_bytes: float) -> float:
    """Returns the length of the code that the model gives to a text, per byte of the text.

    >>> round(bits_per_byte(total_nats=math.log(256) * 10, num_bytes=10), 6)
    8.0
    """
    return total_nats / math.log(2.0) / max(num_bytes, 1.0)
