"""The error of data."""

from __future__ import annotations

from mtfrun.errors import InputError


class DataError(InputError):
    """Data that was asked for is missing or malformed; the message is one line with the remedy."""
