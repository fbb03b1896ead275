"""Lines on standard error that do not disturb bars."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

from mtfrun import processes
from mtfrun.progress.screen import styled


def note(text: str, stream: TextIO | None = None) -> None:
    """Prints a line above all bars; of several processes only the first one does.

    Args:
      text: one line, or several.
      stream: by default standard error.
    """
    if processes.is_first():
        print_line(text, stream)


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Prints a line above all bars, in every process."""
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a closed standard error, where print() does nothing either
        return
    tqdm.write(text, file=stream)
    stream.flush()


def warning(text: str) -> str:
    """Returns "mtfrun: warning: TEXT"."""
    return f"{styled('mtfrun: warning:', 'yellow')} {text}"


def error(text: str) -> str:
    """Returns "mtfrun: error: TEXT"."""
    return f"{styled('mtfrun: error:', 'red')} {text}"


def duration(secs: float) -> str:
    """Returns "1:20" for 80 seconds, "1:00:00" for an hour.

    >>> duration(80), duration(3600)
    ('1:20', '1:00:00')
    """
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
