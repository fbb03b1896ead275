"""Tables in the Markdown of TensorBoard's page Text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

# What Markdown gives a meaning, in cells of tables too.
_SPECIAL = re.compile(r"[\\`*_{}\[\]()#+\-.!|~$:]")
_MOST_CHARACTERS = 1000


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose cells show texts as they are, line breaks and blanks included.

    >>> print(markdown_table(["input", "output"], [["2 * 3", "<b>"]]))
    | input | output |
    | --- | --- |
    | 2 &#42; 3 | &lt;b&gt; |
    """
    lines = [list(header), ["---"] * len(header), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Returns a text for a cell; of a long one the beginning."""
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"
    text = _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", html.escape(text))
    # Blanks at the beginning of a line, and of two blanks the first, would not be shown.
    text = re.sub(r"(?m)^ | (?= )", "&nbsp;", text.expandtabs(4))
    return "<br>".join(text.splitlines())
