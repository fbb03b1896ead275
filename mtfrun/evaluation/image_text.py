"""Text in images."""

from __future__ import annotations

import functools

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size: int) -> Font:
    """Returns Pillow's own font, `size` pixels high."""
    return ImageFont.load_default(size)


def shortened(draw: ImageDraw.ImageDraw, text: str, width: float, face: Font) -> str:
    """Returns the text, truncated with "..." if it is wider than `width` pixels."""
    text = " ".join(text.split())
    if draw.textlength(text, face) <= width:
        return text
    while text and draw.textlength(text + "...", face) > width:
        text = text[:-1]
    return text + "..."
