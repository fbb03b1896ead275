"""Values that a `with` statement sets for everything that is called inside it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TypeVar

_T = TypeVar("_T")


@contextlib.contextmanager
def set_inside(variable: contextvars.ContextVar[_T], value: _T) -> Iterator[None]:
    """Gives a variable a value inside, in this thread."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
