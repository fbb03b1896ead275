"""The one error of this package."""

from __future__ import annotations


class DataError(ValueError):
    """Data that was asked for is missing or malformed; the message is one line with the remedy."""
