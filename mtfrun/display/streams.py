"""Standard output, whose errors are InputErrors, and standard error, which never fails."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mtfrun.errors import InputError
from mtfrun.untrusted import escaped, visible

_STANDARD_ERROR = 2
# The control characters that tqdm writes to move between its bars, and the colours of lines.
_MOVES = re.compile(r"[\r\n]*(\x1b\[A)*")
_COLOURS, _NOTHING = re.compile(r"(\x1b\[\d{1,2}m)"), re.compile("(?!)")


class OutputError(InputError):
    """Standard output cannot be written."""


@contextlib.contextmanager
def named_stdout() -> Iterator[None]:
    """Errors of `sys.stdout` become OutputErrors, or BrokenPipeErrors if the reader closed it.

    The system's error has no file name, and an error while Python exits has a traceback.
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
    """Escapes unprintable characters: for names and texts from data or untrusted files."""
    for line in lines:
        print(escaped(line), flush=True)


def discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


class _Named:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Escapes control characters; returns the length of the text."""
        with _raise_output_errors():
            self._stream.write(visible(text, self._stream.encoding or "utf-8"))
        return len(text)

    def flush(self) -> None:
        with _raise_output_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _raise_output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write standard output: {error.strerror or error}: what was printed is not "
            "whole; free space or send it elsewhere"
        ) from error


@contextlib.contextmanager
def unfailing_stderr() -> Iterator[None]:
    """`sys.stderr` drops text that cannot be written: the exit code alone says the result."""
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
    return _Unfailing(stream)


class _Unfailing:
    """Escapes control characters, except for bars and, on a terminal, colours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(self._escape(text))
        return len(text)

    def _escape(self, text: str) -> str:
        if _MOVES.fullmatch(text):
            return text
        start = text[: text.startswith("\r")]
        colours = _COLOURS if self._stream.isatty() else _NOTHING
        parts = colours.split(text[len(start) :])  # odd entries are colours
        return start + "".join(part if i % 2 else visible(part) for i, part in enumerate(parts))

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # Later writes succeed, also Python's flush when it exits.
            discard(self._stream.fileno())
