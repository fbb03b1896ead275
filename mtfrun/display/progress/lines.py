from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator
from io import RawIOBase
from typing import TextIO

from tqdm import tqdm

from mtfrun import processes
from mtfrun.display.progress.screen import apply_style
from mtfrun.untrusted import escaped

_STYLE = re.compile(r"\x1b\[[0-9]*m")
_logs: list[RawIOBase] = []


@contextlib.contextmanager
def log_to(file: RawIOBase) -> Iterator[None]:
    """Writes the lines of `note` and `print_line` also to a file, with times, in every process.

    Lines that cannot be written are dropped: a file without a buffer does not retry them.
    """
    _logs.append(file)
    try:
        yield
    finally:
        _logs.remove(file)


def log(text: str) -> None:
    """Writes a line, or several, only to the files of `log_to`."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = "".join(f"{now}  {line}\n" for line in _STYLE.sub("", text).splitlines())
    for file in _logs:
        with contextlib.suppress(OSError):
            file.write(lines.encode("utf-8", "backslashreplace"))


def note(text: str, stream: TextIO | None = None) -> None:
    """Prints a line above all bars; of several processes only the first one does."""
    if processes.is_first():
        print_line(text, stream)
    else:
        log(text)


def print_line(text: str, stream: TextIO | None = None) -> None:
    log(text)
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a closed standard error, where print() does nothing either
        return
    tqdm.write(text, file=stream)
    stream.flush()


def warning(text: str) -> str:
    return f"{apply_style('mtfrun: warning:', 'yellow')} {text}"


def error(text: str) -> str:
    return f"{apply_style('mtfrun: error:', 'red')} {text}"


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Without a handler absl would install one whose lines begin with "WARNING:absl:"."""
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
        text = escaped(" ".join(record.getMessage().split()))
        kind = error if record.levelno >= logging.ERROR else warning
        print_line(kind(text))
