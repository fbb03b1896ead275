"""Warnings of Python's loggers in the form of all that mtfrun says."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints what is logged inside as a line "mtfrun: warning: ..." on standard error.

    Without a handler absl would install one, whose lines begin "WARNING:absl:".
    """
    handler = _Lines(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Lines(logging.Handler):
    """Prints records to what `sys.stderr` is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        kind = "error" if record.levelno >= logging.ERROR else "warning"
        text = " ".join(record.getMessage().split())
        print(f"mtfrun: {kind}: {text}", file=sys.stderr, flush=True)
