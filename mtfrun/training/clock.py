"""The clock of the training loop, which tests replace."""

from __future__ import annotations

import time


def seconds() -> float:
    """Returns the seconds since a fixed moment."""
    return time.monotonic()
