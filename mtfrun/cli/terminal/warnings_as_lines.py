"""Warnings of Python's loggers in the form of mtfrun's own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from mtfrun.display.progress import error, print_line, warning
from mtfrun.untrusted import escaped


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints each message that is logged inside as a line "mtfrun: warning: ..." on standard error.

    Without a handler absl would install its own, whose lines begin with "WARNING:absl:".
    """
    handler = _Lines(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Lines(logging.Handler):
    """Prints records to the current `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        text = escaped(" ".join(record.getMessage().split()))
        kind = error if record.levelno >= logging.ERROR else warning
        print_line(kind(text))
