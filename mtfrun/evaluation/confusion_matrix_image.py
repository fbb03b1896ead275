"""Image of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mtfrun.evaluation.image_text import font, shortened

# Width of the matrix, and bounds of the width of a cell, in pixels.
_MATRIX_SIZE, _MIN_CELL, _MAX_CELL = 640, 1, 48
# Least size of cells with counts, and of cells with names of classes, in pixels.
_NUMBERED_CELL, _NAMED_CELL = 24, 10
_MAX_NAME_WIDTH = 140
_LINE_HEIGHT = 22
_TEXT_COLOUR, _GRID_COLOUR = (32, 32, 32), (225, 225, 225)
_CORRECT, _INCORRECT = np.array([28, 128, 60]), np.array([196, 40, 36])


def confusion_matrix_image(counts: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Returns an image of a confusion matrix, uint8 [height, width, 3].

    Rows are true classes, columns predicted ones. The strength of the colour is the square root of
    the count's share of its row, so that rare errors are visible: green on the diagonal, red
    elsewhere.

    Args:
      counts: [classes, predicted].
      label_names: names of the classes.
    """
    classes = len(label_names)
    cell = int(np.clip(_MATRIX_SIZE // classes, _MIN_CELL, _MAX_CELL))
    face = font(min(14, cell))
    names = list(label_names) if cell >= _NAMED_CELL else [""] * classes
    measuring = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [shortened(measuring, name, _MAX_NAME_WIDTH, face) for name in names]
    margin = round(max(measuring.textlength(name, face) for name in names)) + 10
    left, top = _LINE_HEIGHT + margin, _LINE_HEIGHT + margin
    side = classes * cell + 1
    image = Image.new("RGB", (left + side + 8, top + side + 8), "white")
    draw = ImageDraw.Draw(image)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = _colours(np.sqrt(shares)).repeat(cell, 0).repeat(cell, 1)
    image.paste(Image.fromarray(colours), (left, top))
    if cell >= _NAMED_CELL:
        for i in range(classes + 1):
            offset = i * cell
            draw.line([(left, top + offset), (left + side - 1, top + offset)], _GRID_COLOUR)
            draw.line([(left + offset, top), (left + offset, top + side - 1)], _GRID_COLOUR)
    draw.text((left + side / 2, 4), "predicted", _TEXT_COLOUR, font(14), anchor="ma")
    _draw_vertical_text(image, "true", 14, (4, top + side // 2), centred=True)
    size = min(14, cell)
    for i, name in enumerate(names):
        middle = i * cell + cell // 2
        draw.text((left - 6, top + middle), name, _TEXT_COLOUR, face, anchor="rm")
        if all(len(name) <= 3 for name in names):
            draw.text((left + middle, top - 6), name, _TEXT_COLOUR, face, anchor="ms")
        else:
            place = (left + middle - size // 2, top - 6)
            _draw_vertical_text(image, name, size, place, centred=False)
    if cell >= _NUMBERED_CELL:
        _draw_counts(draw, counts, shares, (left, top), cell)
    return np.asarray(image)


def _draw_counts(
    draw: ImageDraw.ImageDraw,
    counts: np.ndarray,
    shares: np.ndarray,
    corner: tuple[int, int],
    cell: int,
) -> None:
    """Writes the nonzero counts into the cells."""
    for (row, col), count in np.ndenumerate(np.rint(counts).astype(int)):
        if count:
            text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
            place = (corner[0] + (col + 0.5) * cell, corner[1] + (row + 0.5) * cell)
            colour = "white" if shares[row, col] > 0.25 else _TEXT_COLOUR
            draw.text(place, text, colour, font(max(9, cell // 3)), anchor="mm")


def _colours(strength: np.ndarray) -> np.ndarray:
    """Returns uint8 [classes, predicted, 3]: white for 0, the full colour for 1."""
    full = np.where(np.eye(len(strength), dtype=bool)[:, :, np.newaxis], _CORRECT, _INCORRECT)
    mixed = 255 + strength[:, :, np.newaxis] * (full - 255)
    return np.asarray(np.rint(mixed), np.uint8)


def _draw_vertical_text(
    image: Image.Image, text: str, size: int, place: tuple[int, int], *, centred: bool
) -> None:
    """Writes a text upwards; its centre if `centred`, else its beginning, is at `place`."""
    if not text:
        return
    face = font(size)
    width = round(ImageDraw.Draw(image).textlength(text, face)) + 1
    strip = Image.new("L", (width, size + 4))
    ImageDraw.Draw(strip).text((0, 0), text, 255, face)
    rotated = strip.transpose(Image.Transpose.ROTATE_90)
    x, y = place
    corner = (x, y - width // 2 if centred else y - width)
    image.paste(_TEXT_COLOUR, corner, rotated)
