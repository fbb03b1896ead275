from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mtfrun.data.features import TARGETS
from mtfrun.errors.untrusted import escape
from mtfrun.extras.data_viewer.row_view import PADDING, RowView, Tokens

# Limits without tokens: segments shown of a feature, lines shown of a segment.
_MOST_SEGMENTS, _MOST_LINES = 3, 3
_INDENT = "  "
_LABELS = ("text", "id", "position", "loss")
# Width of the labels before the columns of tokens.
_LABEL_WIDTH = max(map(len, _LABELS)) + 2


def rows_text(
    rows: Sequence[RowView],
    width: int,
    *,
    has_tokens: bool = False,
    highlight: Callable[[str], str] = str,
    first: int = 1,
    count: int | None = None,
) -> Iterator[str]:
    """Yields lines of at most `width` columns, unless a single token is wider.

    Unprintable characters of the data are escaped.

    Args:
      has_tokens: whether segments are whole, each with a list of its tokens: id, position and, if
        it differs within the segment, the weight of the loss.
      highlight: style of texts with a loss in segments where others have none.
      first, count: the first row's number, and the number of all rows; by default those in `rows`.
    """
    for number, row in enumerate(rows, first):
        yield f"row {number} of {count or len(rows)}"
        for name, pixels in row.images.items():
            yield from heading_lines(describe_image(name, pixels), width, _INDENT)
        for name, value in row.values.items():
            yield from heading_lines(f"{name}: {escape(value)}", width, _INDENT)
        for tokens in row.tokens:
            yield from heading_lines(describe_tokens(tokens), width, _INDENT)
            parts = tokens.parts()
            for part in parts if has_tokens else parts[:_MOST_SEGMENTS]:
                yield from _segment_lines(part, width, highlight, has_tokens=has_tokens)
            if not has_tokens and len(parts) > _MOST_SEGMENTS:
                yield f"{2 * _INDENT}and {len(parts) - _MOST_SEGMENTS:,} more segments"
        yield ""


def heading_lines(text: str, width: int, indent: str = "") -> list[str]:
    """Wraps a text; all lines but the first are indented more."""
    further = indent + 2 * _INDENT
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=further)


def describe_tokens(tokens: Tokens) -> str:
    """Returns "targets: 32 positions, 30 tokens in 2 segments, 2 padding, loss on 30"."""
    segments = len(tokens.parts())
    loss = f", loss on {tokens.num_with_loss:,}" if tokens.name == TARGETS else ""
    return (
        f"{tokens.name}: {tokens.length:,} positions, {len(tokens.tokens):,} tokens in "
        f"{segments:,} segment{'s' * (segments != 1)}, {tokens.padding:,} padding{loss}"
    )


def describe_segment(part: Tokens) -> str:
    """Returns "segment 1: 12 tokens, loss on 5"."""
    loss = f", loss on {part.num_with_loss:,}" if part.has_partial_loss else ""
    return f"segment {part.tokens[0].segment}: {len(part.tokens):,} tokens{loss}"


def describe_image(name: str, pixels: np.ndarray) -> str:
    """Returns "images: 8 x 8, 1 channel"."""
    rows, columns, channels = pixels.shape
    return f"{name}: {rows} x {columns}, {channels} channel{'s' * (channels != 1)}"


def columns_of(text: str) -> int:
    """Returns the columns of a terminal that a printable text takes.

    >>> columns_of("né"), columns_of("語")
    (2, 2)
    """
    drawn = [x for x in text if unicodedata.category(x) not in ("Mn", "Me")]  # not over another
    return sum(2 if unicodedata.east_asian_width(x) in ("W", "F") else 1 for x in drawn)


def _segment_lines(
    part: Tokens, width: int, highlight: Callable[[str], str], *, has_tokens: bool
) -> Iterator[str]:
    indent = 2 * _INDENT
    yield indent + describe_segment(part)
    lines = list(_wrap(_characters(part), width - len(indent) - 2))
    for line in lines if has_tokens else lines[:_MOST_LINES]:
        runs = itertools.groupby(line, lambda pair: pair[1])
        texts = [("".join(c for c, _ in pairs), has_loss) for has_loss, pairs in runs]
        yield f"{indent}| {''.join(highlight(x) if has_loss else x for x, has_loss in texts)}"
    if has_tokens:
        yield from (indent + line for line in _token_lines(part, width - len(indent)))
    elif len(lines) > _MOST_LINES:
        yield f"{indent}| ..."


def _characters(part: Tokens) -> Iterator[tuple[str, bool]]:
    """Yields the printable characters of a text, and whether the loss singles them out."""
    for token in part.tokens:
        if token.id != PADDING:
            has_loss = part.has_partial_loss and bool(token.weight)
            yield from ((character, has_loss) for character in escape(token.text))


def _wrap(characters: Iterable[tuple[str, bool]], width: int) -> Iterator[list[tuple[str, bool]]]:
    """Yields pieces of at most `width` columns, at least one character each."""
    line, used = list[tuple[str, bool]](), 0
    for character, has_loss in characters:
        columns = columns_of(character)
        if line and used + columns > width:
            yield line
            line, used = [], 0
        line.append((character, has_loss))
        used += columns
    if line:
        yield line


def _token_lines(part: Tokens, width: int) -> Iterator[str]:
    """Yields a line for each label, and so on below them for the tokens that are too many."""
    block, used = [list(_LABELS)], 0
    for token in part.tokens:
        # An open box for a space, which would not be seen.
        text = escape(token.text).replace(" ", "\u2423")
        cells = [text, str(token.id), str(token.position)]
        if part.has_partial_loss:
            cells.append(f"{token.weight:g}")
        columns = max(map(columns_of, cells))
        if len(block) > 1 and used + columns > width - _LABEL_WIDTH:
            yield from _block_lines(block)
            block, used = [list(_LABELS)], 0
        block.append([cell + " " * (columns - columns_of(cell)) for cell in cells])
        used += columns + 1
    yield from _block_lines(block)


def _block_lines(block: Sequence[Sequence[str]]) -> Iterator[str]:
    for label, *cells in zip(*block, strict=False):
        yield (label.ljust(_LABEL_WIDTH) + " ".join(cells)).rstrip()
