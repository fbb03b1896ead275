"""Texts that fit a terminal: tables, fields, labelled lines."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from mtfrun.display.formats import shorten_cell
from mtfrun.display.streams import Style, apply_style, is_terminal, print_lines, terminal_size
from mtfrun.errors.untrusted import escape

# Also "3/10", "2.1 MB", "1.5k tok/s", "0.25*", "2.5 ± 0.1" and "2.5 [2.4, 2.7]".
_NUMBER = re.compile(
    r"([-+]?[\d.,]+(e[-+]?\d+)?(/\d+| ?[kMGT]?B?|[kMG]? \w+/s| ± [\d.]+| \[[-+\d., ]+\])?"
    r"|nan|inf|-?)[ *]?"
)
_GAP = "  "
_LABEL_WIDTH = 12
# A column of text is cut down to so many characters before further columns are left out.
_LEAST_WIDTH = 40


def terminal_columns() -> int | None:
    """Returns None for a file or pipe, unless the variable COLUMNS is set."""
    is_tty = sys.stdout is not None and sys.stdout.isatty()
    is_set = os.environ.get("COLUMNS", "").isdecimal()
    return shutil.get_terminal_size().columns if is_tty or is_set else None


def table_lines(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None
) -> list[str]:
    """Returns a heading and a line for every row; numbers are aligned to the right.

    In a narrow terminal the longest texts are cut, then the last columns are left out.
    """
    cells = [[escape(text) for text in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    most = columns or sum(widths) + len(_GAP) * len(widths)
    while _total(widths) > most and max(widths) > _LEAST_WIDTH:
        widest = widths.index(max(widths))
        widths[widest] = max(_LEAST_WIDTH, widths[widest] - (_total(widths) - most))
    shown = len(widths)
    while shown > 1 and _total(widths[:shown]) > most:
        shown -= 1
    to_the_right = [all(_NUMBER.fullmatch(row[i]) for row in cells[1:]) for i in range(shown)]
    lines = []
    for row in cells:
        aligned = [
            f"{shorten_cell(text, width):{'>' if right else '<'}{width}}"
            for text, width, right in zip(row, widths, to_the_right, strict=False)
        ]
        lines.append(_GAP.join(aligned).rstrip())
    if shown < len(widths):
        note = f"(too narrow for: {', '.join(headings[shown:])})"
        lines.append(note if len(note) <= most else f"{note[: most - 4]}...)")
    return lines


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_lines(*table_lines(headings, rows, terminal_columns()))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def fit_fields(
    fields: Iterable[tuple[str, Style | None]], *, indent: int = 0, stream: TextIO | None = None
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
    separator = _GAP if _GAP in line else " "
    pieces = [line] if " --" in line else line.split(separator)
    return _fit(((piece, piece) for piece in pieces), width, separator)


def _fit(
    pieces: Iterable[tuple[str, str]], columns: int, separator: str = _GAP, indent: str = ""
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
