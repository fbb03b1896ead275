from __future__ import annotations

import base64
import html
import io
import pathlib
import string
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from mtfrun.errors.untrusted import escape
from mtfrun.extras.data_viewer.row_view import RowView, Token
from mtfrun.extras.data_viewer.rows_text import describe_image, describe_segment, describe_tokens

# Number of colours, after which the first one is used again.
_COLOURS = 6
# The shorter side, in pixels, to which a small image is enlarged.
_SMALLEST_SIDE = 96

_HERE = pathlib.Path(__file__).parent
TOKEN_STYLE = (_HERE / "tokens.css").read_text("utf-8")
"""The style of `row_parts`."""


def rows_html(
    rows: Sequence[RowView],
    title: str,
    summary: Sequence[str],
    *,
    first: int = 1,
    count: int | None = None,
) -> str:
    """Returns a page, without other files, with all rows; tokens have tooltips.

    For `first` and `count` see `rows_text`.
    """
    body = [f"<p>{_escape(line)}</p>\n" for line in summary]
    for number, row in enumerate(rows, first):
        body += [f"<h2>Row {number} of {count or len(rows)}</h2>\n", *row_parts(row)]
    page = string.Template((_HERE / "rows.html").read_text("utf-8"))
    return page.substitute(title=_escape(title), token_style=TOKEN_STYLE, body="".join(body))


def row_parts(row: RowView, heading: str = "h3") -> Iterator[str]:
    """Yields HTML without other files; `heading` is the element of a feature's title."""
    for name, pixels in row.images.items():
        yield f"<p>{image_element(pixels, describe_image(name, pixels))}</p>\n"
    for name, value in row.values.items():
        yield f"<p>{_escape(f'{name}: {value}')}</p>\n"
    for tokens in row.tokens:
        yield f'<{heading}>{_escape(describe_tokens(tokens))}</{heading}>\n<div class="tokens">'
        for part in tokens.parts():
            yield from (_token(token, describe_segment(part)) for token in part.tokens)
        if tokens.padding:
            yield f'<span class="padding"> {tokens.padding:,} padding</span>'
        yield "</div>\n"


def _token(token: Token, segment: str) -> str:
    classes = [f"c{(token.segment - 1) % _COLOURS}"]
    hint = f"id {token.id}, position {token.position}, {segment}"
    if token.weight is not None:
        hint += f", weight of the loss {token.weight:g}"
        classes += ["without-loss"] * (token.weight == 0)
    # A line end is shown by a sign and by its effect. An id that is a part of a character is a dot.
    shown = _escape(token.text.replace("\n", "\u21b5\n"), keep="\n\t") or "\u00b7"
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
