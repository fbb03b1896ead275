"""Bits per byte."""

from __future__ import annotations

import math


def bits_per_byte(total_nats: float, num_bytes: float) -> float:
    """Returns the length of a text under the model's code, in bits per byte of the text.

    Examples:
      >>> round(bits_per_byte(total_nats=math.log(256) * 10, num_bytes=10), 6)
      8.0
    """
    return total_nats / math.log(2.0) / max(num_bytes, 1.0)
