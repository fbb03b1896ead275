"""Grid of images with their labels and a model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mtfrun.evaluation.image_text import font, shortened

_COLUMNS = 8
# The longer side of an image in the grid, and the spacing around it, in pixels.
_IMAGE_SIZE, _FRAME, _GAP, _LINE_HEIGHT = 96, 3, 8, 17
_CORRECT, _INCORRECT, _TEXT_COLOUR = (28, 128, 60), (196, 40, 36), (32, 32, 32)


class LabelledImage(NamedTuple):
    """An image with its prediction.

    Attributes:
      pixels: uint8 [rows, cols, channels], 1 or 3 channels.
      true_label: its class.
      label: the predicted class.
      probability: predicted, of that class.
    """

    pixels: np.ndarray
    true_label: str
    label: str
    probability: float


def image_grid(images: Sequence[LabelledImage]) -> np.ndarray:
    """Returns one image of all images in a grid, uint8 [height, width, 3].

    Below each are the predicted class with its probability, and the true class. The frame and the
    prediction are green if it is correct, else red.
    """
    scaled = [_scaled(labelled.pixels) for labelled in images]
    width = max([_IMAGE_SIZE, *(image.width for image in scaled)]) + 2 * _FRAME
    height = max(image.height for image in scaled) + 2 * _FRAME
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    column_width, row_height = width + _GAP, height + 2 * _LINE_HEIGHT + _GAP
    grid = Image.new("RGB", (columns * column_width + _GAP, rows * row_height + _GAP), "white")
    draw = ImageDraw.Draw(grid)
    for i, (labelled, image) in enumerate(zip(images, scaled, strict=True)):
        x, y = _GAP + i % columns * column_width, _GAP + i // columns * row_height
        colour = _CORRECT if labelled.label == labelled.true_label else _INCORRECT
        draw.rectangle([x, y, x + width - 1, y + height - 1], fill=colour)
        inside = [x + _FRAME, y + _FRAME, x + width - 1 - _FRAME, y + height - 1 - _FRAME]
        draw.rectangle(inside, fill="white")
        grid.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        percent = f"  ({100 * labelled.probability:.0f} %)"
        face = font(13)
        label_width = width - draw.textlength(percent, face)
        label = shortened(draw, labelled.label, label_width, face)
        draw.text((x, y + height + 2), label + percent, colour, face)
        true = shortened(draw, f"true: {labelled.true_label}", width, face)
        draw.text((x, y + height + 2 + _LINE_HEIGHT), true, _TEXT_COLOUR, face)
    return np.asarray(grid)


def _scaled(pixels: np.ndarray) -> Image.Image:
    """Returns an image whose longer side is about _IMAGE_SIZE; enlarged pixels keep sharp edges."""
    rows, cols, channels = pixels.shape
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).convert("RGB")
    factor = _IMAGE_SIZE / max(rows, cols)
    if factor >= 1:
        scale = int(factor)
        return image.resize((cols * scale, rows * scale), Image.Resampling.NEAREST)
    size = (max(1, round(cols * factor)), max(1, round(rows * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)
