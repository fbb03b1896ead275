from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Literal, TextIO

Style = Literal["bold", "dim", "red", "yellow", "green"]

# Parameters of "Select Graphic Rendition", ECMA-48, section 8.3.117.
_CODES: dict[Style, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}
_SEPARATOR = "  "
_LABEL_WIDTH = 12
_DEFAULT_SIZE = os.terminal_size((80, 24))


def is_terminal(stream: TextIO | None = None) -> bool:
    """Returns whether lines of a stream (default stderr) can be overwritten: not if TERM=dumb."""
    stream = sys.stderr if stream is None else stream
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def apply_style(text: str, style: Style, stream: TextIO | None = None) -> str:
    """Leaves the text plain if a stream (default stderr) has no colours, https://no-color.org."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def fit_fields(
    fields: Iterable[tuple[str, Style | None]],
    *,
    indent: int = 0,
    stream: TextIO | None = None,
) -> str:
    # The last column is left free, for a terminal may wrap there.
    columns = terminal_size(stream).columns - 1 if is_terminal(stream) else sys.maxsize
    pieces = ((x, x if style is None else apply_style(x, style, stream)) for x, style in fields)
    return "\n".join(_fit(pieces, columns, indent=" " * indent))


def label_lines(texts: Mapping[str, str], stream: TextIO | None = None) -> str:
    """Wraps texts after bold labels to fit a terminal, except commands, which people paste."""
    width = terminal_size(stream).columns - 1 - _LABEL_WIDTH
    indent = "\n" + " " * _LABEL_WIDTH
    lines = []
    for label, text in texts.items():
        parts = text.split("\n")
        if is_terminal(stream):
            parts = [part for line in parts for part in _break_line(line, width)]
        lines.append(apply_style(f"{label:<{_LABEL_WIDTH}}", "bold", stream) + indent.join(parts))
    return "\n".join(lines)


def _break_line(line: str, width: int) -> list[str]:
    separator = _SEPARATOR if _SEPARATOR in line else " "
    pieces = [line] if " --" in line else line.split(separator)
    return _fit(((piece, piece) for piece in pieces), width, separator)


def _fit(
    pieces: Iterable[tuple[str, str]], columns: int, separator: str = _SEPARATOR, indent: str = ""
) -> list[str]:
    lines: list[str] = []
    width = 0
    for text, printed in pieces:
        if lines and width + len(separator) + len(text) <= columns:
            lines[-1] += separator + printed
            width += len(separator) + len(text)
        else:
            start = indent if lines else ""
            lines.append(start + printed)
            width = len(start) + len(text)
    return lines


def terminal_size(stream: TextIO | None = None) -> os.terminal_size:
    stream = sys.stderr if stream is None else stream
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # ValueError: it was closed
        return _DEFAULT_SIZE
