"""Standard output that cannot be written is an error with a name, found before the program ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mtfrun.cli.errors import UsageError


class OutputError(UsageError):
    """Standard output cannot be written."""


@contextlib.contextmanager
def named_stdout() -> Iterator[None]:
    """Makes `sys.stdout` a stream inside whose failures are OutputErrors; writes all at the end.

    The system's error names no file, and one at Python's own end has a traceback. A reader that is
    gone stays a BrokenPipeError.

    Raises:
      OutputError: what was printed cannot be written. The rest is dropped.
    """
    former = sys.stdout
    if former is None:  # closed: print() says nothing then
        yield
        return
    sys.stdout = _Named(former)
    try:
        try:
            yield
        finally:  # also after --help, which ends the program
            sys.stdout.flush()
    except OutputError:
        discard(former.fileno())
        raise
    finally:
        sys.stdout = former


def discard(descriptor: int) -> None:
    """Sends what is written to a file descriptor nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


class _Named:
    """A text stream that is another one, with the errors of standard output."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Returns the length of the text."""
        with _named():
            return self._stream.write(text)

    def flush(self) -> None:
        """Writes what is held back."""
        with _named():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write standard output: {error.strerror or error}: what was printed is not "
            "whole; free space or send it elsewhere"
        ) from error
