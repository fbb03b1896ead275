r"""Escapes the characters in a text that control a terminal.

`escaped` is for names and messages in one line. All output passes through `visible` on its way to
a standard stream: a text of a model, of a data set or of a run directory cannot move the cursor,
change colours, or make the terminal answer.
"""

from __future__ import annotations

import re

# C0 and C1 controls except tabs and line ends, marks that reverse the direction of writing, and
# unpaired surrogates, which no encoding has.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escaped(text: str) -> str:
    r"""Returns a text with its unprintable characters escaped.

    >>> escaped("a \x1b[31mb")
    'a \\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def visible(text: str, encoding: str = "utf-8") -> str:
    r"""Returns lines with control characters, and characters that an encoding lacks, escaped.

    The escapes are JSON's, so that lines of JSON keep their meaning.

    >>> visible("a\tb\x1b[31m\n"), visible("\u00e9 \U0001f600", "ascii")
    ('a\tb\\u001b[31m\n', '\\u00e9 \\ud83d\\ude00')
    """
    text = _CONTROLS.sub(lambda match: _json_escape(match[0]), text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if _is_in(c, encoding) else _json_escape(c) for c in text)
    return text


def _is_in(character: str, encoding: str) -> bool:
    return bool(character.encode(encoding, "ignore"))


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
