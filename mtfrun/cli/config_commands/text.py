"""Text of the width that every terminal has."""

from __future__ import annotations

import textwrap

WIDTH = 80


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
