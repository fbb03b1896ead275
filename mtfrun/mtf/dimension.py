"""A named dimension."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

from mtfrun.errors import ShapeError


class Dimension(NamedTuple):
    """A name and a size; two dimensions are equal when both are."""

    name: str
    size: int


DimensionLike: TypeAlias = Dimension | tuple[str, int] | str

# Positions along a dimension are 32-bit integers.
MAX_SIZE = 2**31 - 1

_TEXT = re.compile(r"^\s*([^\s:;,.]+)\s*:\s*(\d+)\s*$")


def convert_to_dimension(d: DimensionLike) -> Dimension:
    """Returns the dimension of a `Dimension`, (name, size) or "name:size"; else a ShapeError."""
    if isinstance(d, str):
        match = _TEXT.match(d)
        if match is None:
            raise ShapeError(f"{d!r} is not a dimension: write 'name:size'")
        d = (match[1], int(match[2]))
    try:
        name, size = d
    except (TypeError, ValueError):
        raise ShapeError(
            f"{d!r} is not a dimension: give a Dimension, (name, size) or 'name:size'"
        ) from None
    if not isinstance(name, str) or not name:
        raise ShapeError(f"a dimension's name must be a non-empty string, got {name!r}")
    if int(size) != size or size < 1:
        raise ShapeError(f"dimension {name!r} must have a size of at least 1, got {size!r}")
    if size > MAX_SIZE:
        raise ShapeError(f"dimension {name!r} must have a size of at most {MAX_SIZE}, got {size}")
    return Dimension(name, int(size))
