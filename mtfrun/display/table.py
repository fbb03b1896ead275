from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence

from mtfrun.display.formats import shorten_cell
from mtfrun.untrusted import escaped

# Also "3/10", "2.1 MB", "1.5k tok/s" and "0.25*".
_NUMBER = re.compile(r"([-+]?[\d.,]+(e[-+]?\d+)?(/\d+| ?[kMGT]?B?|[kMG]? \w+/s)?|nan|inf|-?)[ *]?")
_GAP = "  "
# A column of text is cut down to so many characters before further columns are left out.
_LEAST_WIDTH = 40


def terminal_columns() -> int | None:
    """Returns None for a file or pipe, unless the variable COLUMNS is set."""
    if (sys.stdout is not None and sys.stdout.isatty()) or os.environ.get(
        "COLUMNS", ""
    ).isdecimal():
        return shutil.get_terminal_size().columns
    return None


def table_lines(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None
) -> list[str]:
    """Returns a heading and a line for every row; numbers are aligned to the right.

    In a narrow terminal the longest texts are cut, then the last columns are left out.
    """
    cells = [[escaped(text) for text in row] for row in (headings, *rows)]
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
        texts = [
            shorten_cell(text, width) for text, width in zip(row[:shown], widths, strict=False)
        ]
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, to_the_right, strict=False)
        ]
        lines.append(_GAP.join(aligned).rstrip())
    if shown < len(widths):
        note = f"(too narrow for: {', '.join(headings[shown:])})"
        lines.append(note if len(note) <= most else f"{note[: most - 4]}...)")
    return lines


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)
