from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from mtfrun.tools.data_viewer.row_view import ImageView, RowView, Tokens, Value
from mtfrun.untrusted import escape

# Limits without tokens: segments shown of a feature, lines shown of a segment.
_MOST_SEGMENTS, _MOST_LINES = 3, 3
_INDENT = "  "
_LABELS = ("text", "id", "position", "loss")
# Width of the labels before the columns of tokens.
_LABEL_WIDTH = max(map(len, _LABELS)) + 2


def rows_text(rows: Sequence[RowView], width: int, *, has_tokens: bool = False) -> Iterator[str]:
    """Yields lines of at most `width` columns, unless a single token is wider.

    With `has_tokens` segments are whole, each with a list of its tokens: id, position and, if it
    differs within the segment, the weight of the loss.
    """
    for i, row in enumerate(rows):
        yield f"row {i + 1} of {len(rows)}"
        for image in row.images:
            yield from heading_lines(describe_image(image), width, _INDENT)
        for value in row.values:
            yield from heading_lines(describe_value(value), width, _INDENT)
        for tokens in row.tokens:
            yield from heading_lines(describe_tokens(tokens), width, _INDENT)
            parts = tokens.parts()
            for part in parts if has_tokens else parts[:_MOST_SEGMENTS]:
                yield from _segment_lines(part, width, has_tokens=has_tokens)
            if not has_tokens and len(parts) > _MOST_SEGMENTS:
                yield f"{2 * _INDENT}and {len(parts) - _MOST_SEGMENTS:,} more segments"
        yield ""


def heading_lines(text: str, width: int, indent: str = "") -> list[str]:
    """Wraps a text; all lines but the first are indented more."""
    further = indent + 2 * _INDENT
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=further)


def describe_tokens(tokens: Tokens) -> str:
    """Returns "targets: 32 positions, 30 tokens in 2 segments, 2 padding, loss on 30"."""
    segments = len(set(tokens.segments.tolist()))
    parts = [
        f"{tokens.name}: {tokens.length:,} positions",
        f"{len(tokens.ids):,} tokens in {segments:,} segment{'s' * (segments != 1)}",
        f"{tokens.padding:,} padding",
    ]
    if tokens.weights is not None:
        parts.append(f"loss on {int((tokens.weights != 0).sum()):,}")
    return ", ".join(parts)


def describe_segment(part: Tokens) -> str:
    """Returns "segment 1: 12 tokens, loss on 5"."""
    text = f"segment {part.segments[0]}: {len(part.ids):,} tokens"
    if part.weights is not None and _differ(part):
        text += f", loss on {int((part.weights != 0).sum()):,}"
    return text


def describe_image(image: ImageView) -> str:
    """Returns "images: 8 x 8, 1 channel"."""
    rows, columns, channels = image.pixels.shape
    return f"{image.name}: {rows} x {columns}, {channels} channel{'s' * (channels != 1)}"


def describe_value(value: Value) -> str:
    """Returns "labels: 3 (cat)"."""
    return f"{value.name}: {escape(value.text)}"


def columns_of(text: str) -> int:
    """Returns the columns of a terminal that a printable text takes.

    >>> columns_of("né"), columns_of("語")
    (2, 2)
    """
    return sum(_columns_of_character(character) for character in text)


def _columns_of_character(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # drawn over the one before
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _segment_lines(part: Tokens, width: int, *, has_tokens: bool) -> Iterator[str]:
    indent = 2 * _INDENT
    yield indent + describe_segment(part)
    lines = list(_wrap(escape(part.text()), width - len(indent) - 2))
    for line in lines if has_tokens else lines[:_MOST_LINES]:
        yield f"{indent}| {line}"
    if has_tokens:
        for first, last in _blocks(_column_widths(part), width - len(indent) - _LABEL_WIDTH):
            yield from (indent + line for line in _block_lines(part, first, last))
    elif len(lines) > _MOST_LINES:
        yield f"{indent}| ..."


def _wrap(text: str, width: int) -> Iterator[str]:
    """Yields pieces of at most `width` columns, at least one character each."""
    line, used = "", 0
    for character in text:
        columns = _columns_of_character(character)
        if line and used + columns > width:
            yield line
            line, used = "", 0
        line, used = line + character, used + columns
    if line:
        yield line


def _cells(part: Tokens, i: int) -> list[str]:
    # An open box for a space, which would not be seen.
    text = escape(part.texts[i]).replace(" ", "\u2423")
    cells = [text, str(part.ids[i]), str(part.positions[i])]
    if part.weights is not None and _differ(part):
        cells.append(f"{part.weights[i]:g}")
    return cells


def _differ(part: Tokens) -> bool:
    return part.weights is not None and len(set(part.weights.tolist())) > 1


def _column_widths(part: Tokens) -> list[int]:
    return [max(map(columns_of, _cells(part, i))) for i in range(len(part.ids))]


def _blocks(widths: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    first, used = 0, 0
    for i, column in enumerate(widths):
        if i > first and used + column > width:
            yield first, i
            first, used = i, 0
        used += column + 1
    if first < len(widths):
        yield first, len(widths)


def _block_lines(part: Tokens, first: int, last: int) -> Iterator[str]:
    columns = [_cells(part, i) for i in range(first, last)]
    widths = [max(map(columns_of, cells)) for cells in columns]
    for label, *cells in zip(_LABELS, *columns, strict=False):
        padded = [
            cell + " " * (width - columns_of(cell))
            for cell, width in zip(cells, widths, strict=True)
        ]
        yield (label.ljust(_LABEL_WIDTH) + " ".join(padded)).rstrip()
