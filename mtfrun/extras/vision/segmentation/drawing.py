from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.display.pictures.canvas import PALETTE, TEXT, WIDTH, Canvas, shorten

# The space between two images, the height of a line of text, and its length, in pixels.
_GAP, _LINE, _LONGEST_LINE = 7, 16, 46
_TITLES = ("image", "true", "predicted")


class PredictedImage(NamedTuple):
    """`pixels` uint8 [rows, cols, channels], 1 or 3 channels; masks uint8 [rows, cols]."""

    pixels: np.ndarray
    true_mask: np.ndarray
    mask: np.ndarray


def class_colours(num_classes: int) -> np.ndarray:
    """Returns a colour for each class, uint8 [classes, 3]: black, then the palette in turn."""
    palette = [[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in PALETTE]
    return np.array([[0, 0, 0], *np.resize(palette, (num_classes - 1, 3))], np.uint8)


def segmented_images(images: Sequence[PredictedImage], class_names: Sequence[str]) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] with a row of three for each image."""
    side = (WIDTH - 4 * _GAP) / 3
    rows, cols, _ = images[0].pixels.shape
    height = side * rows / cols
    top = 2 * _LINE + 4
    canvas = Canvas(WIDTH, top + len(images) * (height + _GAP))
    colours = class_colours(len(class_names))
    _legend(canvas, class_names[1:], colours[1:])
    for i, image in enumerate(images):
        grey = image.pixels.shape[2] == 1
        pixels = np.repeat(image.pixels, 3, axis=2) if grey else image.pixels
        shown = (pixels, colours[image.true_mask], colours[image.mask])
        for j, array in enumerate(shown):
            left = _GAP + j * (side + _GAP)
            axes = canvas.axes(left, top + i * (height + _GAP), side, height)
            axes.set_axis_off()
            axes.imshow(array, interpolation="nearest" if cols < side else "antialiased")
            if i == 0:
                canvas.text(left + side / 2, top - 5, _TITLES[j], 11, centred=True)
    return canvas.pixels()


def _legend(canvas: Canvas, names: Sequence[str], colours: np.ndarray) -> None:
    """Writes the names in a line behind boxes of their colours, as many as there is space for."""
    left, used = float(_GAP), 0
    for name, colour in zip(names, colours, strict=True):
        text = shorten(name, 14)
        used += len(text) + 3
        if used > _LONGEST_LINE:
            canvas.text(left, 13, "...", 11)
            return
        canvas.box(left, 5, 9, 9, "#{:02x}{:02x}{:02x}".format(*colour))
        canvas.text(left + 13, 13, text, 11, colour=TEXT)
        left += 13 + 6.6 * len(text) + 12
