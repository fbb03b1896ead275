"""Errors of named tensors."""

from __future__ import annotations

from mtfrun.errors import InputError


class ShapeError(InputError):
    """Dimensions that do not match: unknown, repeated, of the wrong size."""


class LayoutError(InputError):
    """A layout that is not possible on its mesh."""
