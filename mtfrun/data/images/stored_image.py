"""Images as caches store them: pixels, or files that are decoded and cropped at once."""

from __future__ import annotations

import abc
import io
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

_JPEG = b"\xff\xd8"
# JPEG files can be decoded at 1/2, 1/4 or 1/8 of their size for less time.
_RATIOS = (8, 4, 2)
# Left, top, right and bottom of a window, in pixels.
Box = tuple[float, float, float, float]


class Window(NamedTuple):
    """A rectangle of an image, in pixels: its first row and column, and its numbers of both."""

    top: int
    left: int
    rows: int
    cols: int


class StoredImage(abc.ABC):
    """An image that is read window by window."""

    @property
    @abc.abstractmethod
    def size(self) -> tuple[int, int]:
        """Rows and columns."""

    @abc.abstractmethod
    def crop(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Returns a window scaled to `size`, rows and columns; uint8 [rows, cols, channels].

        By bilinear interpolation, with a filter as wide as the new pixels where the image shrinks.
        """


class PixelImage(StoredImage):
    """An image whose pixels are in memory."""

    def __init__(self, pixels: np.ndarray):
        """pixels: uint8 [rows, cols, channels]."""
        self._pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        rows, cols, _ = self._pixels.shape
        return rows, cols

    def crop(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        return _resize(_cut(self._pixels, window), size)


class EncodedImage(StoredImage):
    """A JPEG or PNG file, upright, of 8 bits, grey or RGB; see `encode_image`."""

    def __init__(self, content: bytes, size: tuple[int, int], channels: int):
        """size: rows and columns; channels: of the result, 1 or 3."""
        self.content = content
        self._size = size
        self._channels = channels

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def crop(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Decodes only the window of a JPEG file."""
        if self.content.startswith(_JPEG):
            return self._decode(window, size)
        with Image.open(io.BytesIO(self.content), formats=["PNG"]) as image:
            pixels = np.asarray(image).reshape(*self._size, self._channels)
        return _resize(_cut(pixels, window), size)

    def _decode(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Decodes a window of a JPEG file at a ratio that leaves at least `size`."""
        smaller = min(window.rows // size[0], window.cols // size[1])
        ratio = next((ratio for ratio in _RATIOS if ratio <= smaller), 1)
        # The window in pixels of the smaller image, and whole pixels around it.
        top, left, rows, cols = (length / ratio for length in window)
        first = (math.floor(top), math.floor(left))
        last = (math.ceil(top + rows), math.ceil(left + cols))
        pixels = tf.io.decode_and_crop_jpeg(
            self.content,
            [*first, last[0] - first[0], last[1] - first[1]],
            channels=self._channels,
            ratio=ratio,
            # The fast method is less accurate, and not faster.
            dct_method="INTEGER_ACCURATE",
        ).numpy()
        x, y = left - first[1], top - first[0]
        return _resize(pixels, size, (x, y, x + cols, y + rows))


def _cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    top, left, rows, cols = window
    return pixels[top : top + rows, left : left + cols]


def _resize(pixels: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    rows, cols, channels = pixels.shape
    if (rows, cols) == size:
        return pixels
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    image = resize_window(image, size, Image.Resampling.BILINEAR, box)
    return np.asarray(image).reshape(*size, channels)


def resize_window(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, box: Box | None = None
) -> Image.Image:
    """Returns a window of an image, by default all of it, scaled to `size`, rows and columns.

    Along the rows first, then along the columns: Pillow's order, and with it the rounding, depends
    on version and sizes (since version 13, https://github.com/python-pillow/Pillow/pull/9549).
    """
    rows, cols = size
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    image = image.resize((cols, image.height), resample, (left, 0, right, image.height))
    return image.resize((cols, rows), resample, (0, top, cols, bottom))


def resize_to_cover(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Returns the largest window in the centre with the form of `size`, scaled to it."""
    rows, cols = size
    form = cols / rows
    width, height = float(image.width), float(image.height)
    if width / height >= form:
        width = form * height
    else:
        height = width / form
    left, top = (image.width - width) * 0.5, (image.height - height) * 0.5
    return resize_window(image, size, resample, (left, top, left + width, top + height))
