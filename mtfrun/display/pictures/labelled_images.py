from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import (
    RIGHT,
    TEXT,
    WIDTH,
    WRONG,
    as_pixels,
    new_figure,
    pixel_axes,
    placed_axes,
    plain,
    points,
    shorten,
)

# Two rows are as high as a card.
_COLUMNS = 6
# The side of an image, the space between two, and the height of a line, in pixels.
_IMAGE, _GAP, _LINE = 50, 7, 13
_TOP = 23
_MOST_NAME = 9


class LabelledImage(NamedTuple):
    """`pixels` are uint8 [rows, cols, channels], 1 or 3 channels; `probability` is of `label`."""

    pixels: np.ndarray
    true_label: str
    label: str
    probability: float


def image_grid(images: Sequence[LabelledImage]) -> np.ndarray:
    """Returns a grid uint8 [height, width, 3]; wrong predictions have an orange, thicker frame."""
    rows = -(-len(images) // _COLUMNS)
    row_height = _IMAGE + 3 * _LINE + _GAP
    figure = new_figure(WIDTH, _TOP + rows * row_height)
    texts = pixel_axes(figure)
    right = sum(image.label == image.true_label for image in images)
    title = f"{right} of {len(images)} right; below: predicted, probability, true"
    texts.text(_GAP, 15, title, fontsize=points(11), color=TEXT)
    for i, image in enumerate(images):
        x = _GAP + i % _COLUMNS * (_IMAGE + _GAP)
        y = _TOP + i // _COLUMNS * row_height
        is_right = image.label == image.true_label
        colour = RIGHT if is_right else WRONG
        axes = placed_axes(figure, x, y, _IMAGE, _IMAGE)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=1.5 if is_right else 3.0)
        shown = np.repeat(image.pixels, 3, axis=2) if image.pixels.shape[2] == 1 else image.pixels
        axes.imshow(shown, interpolation="nearest" if max(shown.shape) < _IMAGE else "antialiased")
        label, true = (shorten(s, _MOST_NAME) for s in (image.label, image.true_label))
        lines = ((label, colour), (f"{100 * image.probability:.0f} %", colour), (true, TEXT))
        for line, (text, of_text) in enumerate(lines, 1):
            place = (x + _IMAGE / 2, y + _IMAGE + line * _LINE - 1)
            texts.text(*place, plain(text), ha="center", color=of_text, fontsize=points(10))
    return as_pixels(figure)
