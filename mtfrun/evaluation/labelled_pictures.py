"""Pictures with what a model takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mtfrun.evaluation.lettering import font, shortened

_COLUMNS = 8
# The longer side of a picture in the grid, and what is around it, in pixels.
_SIDE, _FRAME, _GAP, _LINE = 96, 3, 8, 17
_RIGHT, _WRONG, _INK = (28, 128, 60), (196, 40, 36), (32, 32, 32)


class Labelled(NamedTuple):
    """One picture.

    Attributes:
      pixels: uint8 [rows, cols, channels], 1 or 3 channels.
      true_label: what it is.
      label: what the model takes it for.
      probability: that the model gives to that.
    """

    pixels: np.ndarray
    true_label: str
    label: str
    probability: float


def labelled_pictures(pictures: Sequence[Labelled]) -> np.ndarray:
    """Returns one picture of a grid of pictures, uint8 [height, width, 3].

    Below each stands what the model takes it for, and how probable that is, in green and with a
    green frame where it is right, else in red, and below that what the picture is.
    """
    scaled = [_scaled(picture.pixels) for picture in pictures]
    width = max([_SIDE, *(image.width for image in scaled)]) + 2 * _FRAME
    height = max(image.height for image in scaled) + 2 * _FRAME
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    across, down = width + _GAP, height + 2 * _LINE + _GAP
    grid = Image.new("RGB", (columns * across + _GAP, rows * down + _GAP), "white")
    draw = ImageDraw.Draw(grid)
    for i, (picture, image) in enumerate(zip(pictures, scaled, strict=True)):
        x, y = _GAP + i % columns * across, _GAP + i // columns * down
        colour = _RIGHT if picture.label == picture.true_label else _WRONG
        draw.rectangle([x, y, x + width - 1, y + height - 1], fill=colour)
        inside = [x + _FRAME, y + _FRAME, x + width - 1 - _FRAME, y + height - 1 - _FRAME]
        draw.rectangle(inside, fill="white")
        grid.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        percent = f"  ({100 * picture.probability:.0f} %)"
        face = font(13)
        room = width - draw.textlength(percent, face)
        label = shortened(draw, picture.label, room, face)
        draw.text((x, y + height + 2), label + percent, colour, face)
        true = shortened(draw, f"true: {picture.true_label}", width, face)
        draw.text((x, y + height + 2 + _LINE), true, _INK, face)
    return np.asarray(grid)


def _scaled(pixels: np.ndarray) -> Image.Image:
    """Returns a picture whose longer side is about _SIDE: small ones keep their pixels' edges."""
    rows, cols, channels = pixels.shape
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).convert("RGB")
    factor = _SIDE / max(rows, cols)
    if factor >= 1:
        whole = int(factor)
        return image.resize((cols * whole, rows * whole), Image.Resampling.NEAREST)
    size = (max(1, round(cols * factor)), max(1, round(rows * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)
