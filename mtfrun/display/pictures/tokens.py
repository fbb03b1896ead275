"""Texts of tokens in pictures and tables."""

from __future__ import annotations

# Blanks would not be seen.
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "▁": "␣"}


def visible(text: str) -> str:
    r"""Returns the text of a token with signs for blanks and other characters that nobody sees.

    >>> visible("a b" + chr(10) + chr(0))
    'a␣b↵\\x00'
    """
    shown = (_SIGNS.get(c, c) for c in text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
