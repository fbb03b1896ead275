"""Standard output with control characters escaped, and with an error if writing fails."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mtfrun.cli.errors import UsageError
from mtfrun.untrusted import escaped, visible


class OutputError(UsageError):
    """Standard output cannot be written."""


@contextlib.contextmanager
def named_stdout() -> Iterator[None]:
    """Makes `sys.stdout` a stream inside whose errors are OutputErrors; flushes it at the end.

    The system's error has no file name, and one when Python exits has a traceback. An output that
    its reader has closed is a BrokenPipeError.

    Raises:
      OutputError: printed text cannot be written. Buffered text is dropped.
    """
    former = sys.stdout
    if former is None:  # closed: print() does nothing then
        yield
        return
    sys.stdout = _Named(former)
    try:
        try:
            yield
        finally:  # also after --help, which raises SystemExit
            sys.stdout.flush()
    except OutputError:
        discard(former.fileno())
        raise
    finally:
        sys.stdout = former


def print_lines(*lines: str) -> None:
    """Prints lines on standard output, with unprintable characters escaped.

    For all output that may contain names or texts from data or untrusted files.
    """
    for line in lines:
        print(escaped(line), flush=True)


def discard(descriptor: int) -> None:
    """Redirects a file descriptor to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


class _Named:
    """A text stream that forwards to standard output, with OutputErrors."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text with control characters escaped; returns its length."""
        with _named():
            self._stream.write(visible(text, self._stream.encoding or "utf-8"))
        return len(text)

    def flush(self) -> None:
        """Writes the buffered text."""
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
