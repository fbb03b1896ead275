"""A standard error that cannot be written does not end the program."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mtfrun.cli.terminal.standard_output import discard

_STANDARD_ERROR = 2


@contextlib.contextmanager
def unfailing_stderr() -> Iterator[None]:
    """Makes `sys.stderr` a stream inside that drops text that cannot be written.

    Progress, warnings and errors are for a person: if a terminal was closed, a pipe has no reader
    or a log's disk is full, the command continues, and its exit code is that of its result.
    """
    former = sys.stderr
    if former is None:
        # It was closed when Python started. The next file that is opened would get its number, and
        # with it the messages that TensorFlow prints from C++.
        discard(_STANDARD_ERROR)
        # Open until the end of the program.
        sys.stderr = open(_STANDARD_ERROR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    else:
        sys.stderr = unfailing(former)
    try:
        yield
    finally:
        sys.stderr = former


def unfailing(stream: TextIO) -> Any:
    """Returns a stream that drops text that cannot be written to another one."""
    return _Unfailing(stream)


class _Unfailing:
    """A text stream that forwards to another one until writing to that fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Returns the length of the text, whether it was written or not."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes the buffered text, if possible."""
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # Later writes succeed, also Python's own flush when it exits.
            discard(self._stream.fileno())
