"""Standard error that nobody reads, or that was closed, costs no result."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mtfrun.cli.terminal.standard_output import discard

_STANDARD_ERROR = 2


@contextlib.contextmanager
def unfailing_stderr() -> Iterator[None]:
    """Makes `sys.stderr` a stream inside that drops what cannot be written.

    Progress, warnings and errors are for a person: where a terminal was closed, a pipe has lost its
    reader or a log's disk is full, the command goes on, and its exit code is that of its result.
    """
    former = sys.stderr
    if former is None:
        # Python found it closed. The next file that is opened would get its number, and with it
        # whatever TensorFlow says from C++.
        discard(_STANDARD_ERROR)
        sys.stderr = open(_STANDARD_ERROR, "w", encoding="utf-8", closefd=False)
    else:
        sys.stderr = _Unfailing(former)
    try:
        yield
    finally:
        sys.stderr = former


class _Unfailing:
    """A text stream that is another one until writing to that fails."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Returns the length of the text, whether it was written or not."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is held back, if that can be."""
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # From here on nothing fails, Python's own flush at its end included.
            discard(self._stream.fileno())
