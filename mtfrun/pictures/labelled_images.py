"""Grid of images with their labels and a model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.pictures.canvas import (
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
    shortened,
)

_COLUMNS = 4
# The side of an image, the space between two, and the height of a line, in pixels.
_IMAGE, _GAP, _LINE = 72, 12, 14
_TOP = 26
_MOST_NAME = 13


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
    """Returns a picture of all images in a grid, uint8 [height, width, 3].

    Below each are the predicted class with its probability, and the true class. The frame is blue
    if the prediction is right, else orange and thicker.
    """
    rows = -(-len(images) // _COLUMNS)
    row_height = _IMAGE + 2 * _LINE + _GAP
    figure = new_figure(WIDTH, _TOP + rows * row_height)
    texts = pixel_axes(figure)
    right = sum(image.label == image.true_label for image in images)
    title = f"{right} of {len(images)} right"
    texts.text(_GAP, 16, title, fontsize=points(12), color=TEXT)
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
        label = f"{plain(shortened(image.label, _MOST_NAME - 6))} ({100 * image.probability:.0f} %)"
        below, middle = y + _IMAGE + _LINE, x + _IMAGE / 2
        true = plain(shortened(f"true: {image.true_label}", _MOST_NAME))
        texts.text(middle, below, label, ha="center", color=colour, fontsize=points(11))
        texts.text(middle, below + _LINE, true, ha="center", color=TEXT, fontsize=points(11))
    return as_pixels(figure)
