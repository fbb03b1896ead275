"""Which compiler the function that is being traced is for."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_FOR_XLA = contextvars.ContextVar("for_xla", default=False)


@contextlib.contextmanager
def traced_for_xla(for_xla: bool) -> Iterator[None]:
    """Says so to the operations inside; some have a form that only XLA compiles."""
    token = _FOR_XLA.set(for_xla)
    try:
        yield
    finally:
        _FOR_XLA.reset(token)


def is_traced_for_xla() -> bool:
    """Returns whether the operation that asks will be compiled by XLA."""
    return _FOR_XLA.get()
