"""Text of the width that every terminal has."""

from __future__ import annotations

import re
import textwrap

WIDTH = 80

# Where the description of an argument or attribute begins.
_ENTRY = re.compile(r" +\**\w+(, \**\w+)*: ")
# The shortest lines of docstrings that were ended because the next word did not fit.
_FULL_LINE = 88


def wrapped(text: str, *, first: str = "", other: str | None = None) -> list[str]:
    """Returns the words of a text as lines of at most WIDTH characters, at least one line.

    Args:
      text: words; their line ends are not kept.
      first: what the first line begins with.
      other: what all other lines begin with; None for the same.
    """
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if other is None else other,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]


def shortened(line: str) -> str:
    """Returns a line without what does not fit WIDTH."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def narrowed(docstring: str, indent: str) -> list[str]:
    """Returns the lines of a docstring, which may have 100 characters, as lines of WIDTH."""
    lines: list[str] = []
    last = ""
    for line in docstring.splitlines():
        words = line.split()
        is_full = bool(words) and len(last) + 1 + len(words[0]) > _FULL_LINE
        if is_full and not _ENTRY.match(line):
            lines[-1] += f" {line.strip()}"  # a part of the same paragraph
        else:
            lines.append(line)
        last = line
    narrow = []
    for line in lines:
        own = indent + line[: len(line) - len(line.lstrip())]
        narrow += wrapped(line.strip(), first=own)
    return narrow
