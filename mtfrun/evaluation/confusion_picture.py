"""A picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mtfrun.evaluation.lettering import font, shortened

# The sides of all cells together, in pixels, and the bounds of one cell's.
_SIDE, _SMALLEST_CELL, _LARGEST_CELL = 640, 1, 48
# From this size on cells have their numbers, and classes their names.
_NUMBERED_CELL, _NAMED_CELL = 24, 10
_LONGEST_NAME = 140
_LINE = 22
_INK, _GRID = (32, 32, 32), (225, 225, 225)
_RIGHT, _WRONG = np.array([28, 128, 60]), np.array([196, 40, 36])


def confusion_picture(counts: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Returns a picture of a confusion matrix, uint8 [height, width, 3].

    A row is a true class, a column a predicted one. The colour is the square root of the count's
    share of its row, so that few mistakes are seen among many right ones: green on the diagonal,
    red elsewhere.

    Args:
      counts: [classes, predicted].
      label_names: of the classes.
    """
    classes = len(label_names)
    cell = int(np.clip(_SIDE // classes, _SMALLEST_CELL, _LARGEST_CELL))
    face = font(min(14, cell))
    names = list(label_names) if cell >= _NAMED_CELL else [""] * classes
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [shortened(probe, name, _LONGEST_NAME, face) for name in names]
    margin = round(max(probe.textlength(name, face) for name in names)) + 10
    left, top = _LINE + margin, _LINE + margin
    side = classes * cell + 1
    image = Image.new("RGB", (left + side + 8, top + side + 8), "white")
    draw = ImageDraw.Draw(image)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = _colours(np.sqrt(shares)).repeat(cell, 0).repeat(cell, 1)
    image.paste(Image.fromarray(colours), (left, top))
    if cell >= _NAMED_CELL:
        for i in range(classes + 1):
            at = i * cell
            draw.line([(left, top + at), (left + side - 1, top + at)], _GRID)
            draw.line([(left + at, top), (left + at, top + side - 1)], _GRID)
    draw.text((left + side / 2, 4), "predicted", _INK, font(14), anchor="ma")
    _upright(image, "true", 14, (4, top + side // 2), centred=True)
    size = min(14, cell)
    for i, name in enumerate(names):
        middle = i * cell + cell // 2
        draw.text((left - 6, top + middle), name, _INK, face, anchor="rm")
        if all(len(short) <= 3 for short in names):
            draw.text((left + middle, top - 6), name, _INK, face, anchor="ms")
        else:
            _upright(image, name, size, (left + middle - size // 2, top - 6), centred=False)
    if cell >= _NUMBERED_CELL:
        _number(draw, counts, shares, (left, top), cell)
    return np.asarray(image)


def _number(
    draw: ImageDraw.ImageDraw,
    counts: np.ndarray,
    shares: np.ndarray,
    corner: tuple[int, int],
    cell: int,
) -> None:
    """Writes the counts that are not 0 into the cells."""
    for (row, col), count in np.ndenumerate(np.rint(counts).astype(int)):
        if count:
            text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
            place = (corner[0] + (col + 0.5) * cell, corner[1] + (row + 0.5) * cell)
            ink = "white" if shares[row, col] > 0.25 else _INK
            draw.text(place, text, ink, font(max(9, cell // 3)), anchor="mm")


def _colours(strength: np.ndarray) -> np.ndarray:
    """Returns uint8 [classes, predicted, 3]: white for 0, the full colour for 1."""
    full = np.where(np.eye(len(strength), dtype=bool)[:, :, np.newaxis], _RIGHT, _WRONG)
    mixed = 255 + strength[:, :, np.newaxis] * (full - 255)
    return np.asarray(np.rint(mixed), np.uint8)


def _upright(
    image: Image.Image, text: str, size: int, place: tuple[int, int], *, centred: bool
) -> None:
    """Writes a text from below to above: its middle, or else its beginning, is at `place`."""
    if not text:
        return
    face = font(size)
    width = round(ImageDraw.Draw(image).textlength(text, face)) + 1
    strip = Image.new("L", (width, size + 4))
    ImageDraw.Draw(strip).text((0, 0), text, 255, face)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    x, y = place
    corner = (x, y - width // 2 if centred else y - width)
    image.paste(_INK, corner, turned)
