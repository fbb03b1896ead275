"""Error of data that is missing or malformed."""

from __future__ import annotations

from mtfrun.errors import InputError


class DataError(InputError):
    """Data is missing or malformed; the message is one line with the remedy."""
