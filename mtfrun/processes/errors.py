"""Errors of several processes."""

from __future__ import annotations

from mtfrun.errors import InputError


class ProcessesError(InputError):
    """The processes of a run cannot be brought together, or one of them has failed; one line."""


class DisagreementError(ProcessesError):
    """Two processes have asked for different things at the same time: their programs differ."""
