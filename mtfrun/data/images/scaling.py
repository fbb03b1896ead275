"""Scaling of images by Pillow, with the same pixels whatever its version is."""

from __future__ import annotations

from PIL import Image

# Left, top, right and bottom of a window, in pixels.
Box = tuple[float, float, float, float]


def scaled(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, box: Box | None = None
) -> Image.Image:
    """Returns a window of an image, by default all of it, scaled to `size`, rows and columns.

    Along the rows first, then along the columns. Pillow's own order, and with it the rounding of
    pixels, depends on its version and on the sizes (since version 13, see
    https://github.com/python-pillow/Pillow/pull/9549).
    """
    rows, cols = size
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    image = image.resize((cols, image.height), resample, (left, 0, right, image.height))
    return image.resize((cols, rows), resample, (0, top, cols, bottom))


def fitted(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Returns the largest window in the centre with the form of `size`, scaled to it."""
    rows, cols = size
    form = cols / rows
    width, height = float(image.width), float(image.height)
    if width / height >= form:
        width = form * height
    else:
        height = width / form
    left, top = (image.width - width) * 0.5, (image.height - height) * 0.5
    return scaled(image, size, resample, (left, top, left + width, top + height))
