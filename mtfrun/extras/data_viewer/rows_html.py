from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from mtfrun.errors.untrusted import escape
from mtfrun.extras.data_viewer.row_view import RowView, Tokens
from mtfrun.extras.data_viewer.rows_text import describe_image, describe_segment, describe_tokens

# Number of colours, after which the first one is used again.
_COLOURS = 6
# The shorter side, in pixels, to which a small image is enlarged.
_SMALLEST_SIDE = 96

TOKEN_STYLE = """\
.tokens { font: 14px/1.9 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.tokens span { border-radius: 3px; padding: 1px 0; }
.tokens span:hover { outline: 2px solid #1b1b1b; }
.without-loss { opacity: .55; text-decoration: underline dotted; }
.padding { color: #777; }
.pixels { image-rendering: pixelated; border: 1px solid #999; }
.c0 { background: #cfe3fb; } .c1 { background: #fde2b8; } .c2 { background: #cdeccb; }
.c3 { background: #f6cfdc; } .c4 { background: #ddd3f5; } .c5 { background: #c9ebe8; }
@media (prefers-color-scheme: dark) {
  .tokens span { color: #1b1b1b; }
  .tokens span:hover { outline-color: #eee; }
  .tokens .padding { color: #aaa; }
}
"""
"""The style of `row_parts`."""

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h2, h3 { font-size: 1em; margin: 1.5em 0 .3em; }
h3 { font-weight: normal; margin-top: .6em; }
@media (prefers-color-scheme: dark) {
  body { color: #eee; background: #181818; }
}
"""


def rows_html(
    rows: Sequence[RowView],
    title: str,
    summary: Sequence[str],
    *,
    first: int = 1,
    count: int | None = None,
) -> Iterator[str]:
    """Yields the parts of a page, without other files, with all rows; tokens have tooltips.

    For `first` and `count` see `rows_text`.
    """
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{_STYLE}{TOKEN_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_escape(title)}</h1>\n"
    )
    for line in summary:
        yield f"<p>{_escape(line)}</p>\n"
    for number, row in enumerate(rows, first):
        yield f"<h2>Row {number} of {count or len(rows)}</h2>\n"
        yield from row_parts(row)
    yield "</body>\n</html>\n"


def row_parts(row: RowView, heading: str = "h3") -> Iterator[str]:
    """Yields HTML without other files; `heading` is the element of a feature's title."""
    for name, pixels in row.images.items():
        yield f"<p>{image_element(pixels, describe_image(name, pixels))}</p>\n"
    for name, value in row.values.items():
        yield f"<p>{_escape(f'{name}: {value}')}</p>\n"
    for tokens in row.tokens:
        yield f'<{heading}>{_escape(describe_tokens(tokens))}</{heading}>\n<div class="tokens">'
        for part in tokens.parts():
            yield from (_token(part, i) for i in range(len(part.ids)))
        if tokens.padding:
            yield f'<span class="padding"> {tokens.padding:,} padding</span>'
        yield "</div>\n"


def _token(part: Tokens, i: int) -> str:
    text = part.texts[i]
    classes = [f"c{(int(part.segments[i]) - 1) % _COLOURS}"]
    hint = f"id {part.ids[i]}, position {part.positions[i]}, {describe_segment(part)}"
    if part.weights is not None:
        hint += f", weight of the loss {part.weights[i]:g}"
        if part.weights[i] == 0:
            classes.append("without-loss")
    # A line end is shown by a sign and by its effect. An id that is a part of a character is a dot.
    shown = _escape(text.replace("\n", "\u21b5\n"), keep="\n\t") if text else "\u00b7"
    return f'<span class="{" ".join(classes)}" title="{_escape(hint)}">{shown}</span>'


def image_element(pixels: np.ndarray, text: str) -> str:
    """`pixels` are uint8 [rows, cols, channels]; `text` says what they show."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    png = io.BytesIO()
    image.save(png, format="PNG")
    data = base64.b64encode(png.getvalue()).decode("ascii")
    scale = max(1, _SMALLEST_SIDE // min(image.size))
    width, height = (scale * side for side in image.size)
    return (
        f'<img class="pixels" width="{width}" height="{height}" alt="{_escape(text)}" '
        f'title="{_escape(text)}" src="data:image/png;base64,{data}">'
    )


def _escape(text: str, keep: str = "") -> str:
    """Also escapes characters that are not printable, except `keep`."""
    return html.escape("".join(c if c in keep else escape(c) for c in text))
