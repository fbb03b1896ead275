"""The error of an invalid configuration."""

from __future__ import annotations

from mtfrun.errors import InputError


class ConfigError(InputError):
    """An invalid configuration; the message is one line, with its place if known."""
