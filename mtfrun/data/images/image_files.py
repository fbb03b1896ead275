"""Image files: read, checked, stored in caches, and decoded and cropped at once."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from mtfrun.data.errors import DataError
from mtfrun.data.files import LARGEST_CONTENT
from mtfrun.data.images.crops import Window
from mtfrun.errors.untrusted import read_regular

FORMATS = ("PNG", "JPEG")
_MODES = {1: "L", 3: "RGB"}
# What Pillow's parsers raise for damaged files.
_DAMAGE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error),
)
_SIZE_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# The EXIF tag of the orientation; 1 is upright.
_ORIENTATION, _UPRIGHT = 0x0112, 1
_JPEG = b"\xff\xd8"
# JPEG files can be decoded at 1/2, 1/4 or 1/8 of their size for less time.
_RATIOS = (8, 4, 2)
# Left, top, right and bottom of a window, in pixels.
Box = tuple[float, float, float, float]

T = TypeVar("T")
R = TypeVar("R")


def read_image(path: str, size: tuple[int, int, int]) -> np.ndarray:
    """Returns the pixels of a PNG or JPEG file: uint8 [rows, cols, channels], 1 or 3 channels.

    Images are converted to grey (the luma of ITU-R 601-2) or to colour as the channels require. An
    image of another size is scaled to cover rows and cols, by bicubic interpolation, and cropped to
    its centre. It is rotated by its EXIF orientation; transparent pixels become white; 16 bits are
    reduced to the upper 8; of several frames the first is read.
    """
    rows, cols, channels = size
    image = resize_to_cover(open_image(path, channels), (rows, cols), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(rows, cols, channels)


def open_image(path: str, channels: int) -> Image.Image:
    return _open(read_file(path), channels, path)[0]


def encode_image(content: bytes, channels: int, place: str) -> EncodedImage:
    """Returns a JPEG or PNG file that only needs decoding, after checking that it is whole.

    An upright JPEG file of 8 bits in grey or RGB is returned unchanged, after decoding it once with
    the training decoder; any other image as a PNG file of the pixels that `read_image` describes.
    """
    image, is_plain = _open(content, channels, place)
    if not is_plain:
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        content = file.getvalue()
    cols, rows = image.size
    encoded = EncodedImage(content, (rows, cols), channels)
    if is_plain:
        try:
            encoded.crop(Window(0, 0, rows, cols), (rows, cols))
        except tf.errors.OpError as error:  # the training decoder is stricter than Pillow
            raise _damage(place) from error
    return encoded


def size_of(content: bytes) -> tuple[int, int]:
    """Returns rows and columns of a file that `encode_image` returned, from its beginning."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.height, image.width


def read_file(path: str) -> bytes:
    try:
        return read_regular(Path(path), LARGEST_CONTENT)
    except FileNotFoundError:
        raise DataError(f"no image {path}: check its name") from None
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror or error}") from error


def _open(content: bytes, channels: int, place: str) -> tuple[Image.Image, bool]:
    """Returns an upright image in the mode of `channels`, and whether the file has it as it is."""
    if channels not in _MODES:
        raise DataError(f"images of {channels} channels cannot be read from files, only of 1 or 3")
    with decoding_image(place), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        is_plain = (
            image.format == "JPEG"
            and image.mode in _MODES.values()
            and image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT
        )
        return _in_mode(ImageOps.exif_transpose(image), _MODES[channels]), is_plain


@contextlib.contextmanager
def decoding_image(place: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except _SIZE_ERRORS as error:
        raise DataError(f"the image {place} is too large: {error}") from None
    except _DAMAGE_ERRORS as error:
        raise _damage(place) from error


def _damage(place: str) -> DataError:
    return DataError(f"cannot read the image {place}: broken, or not a PNG or JPEG")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's conversion to 8 bits clips instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def in_threads(function: Callable[[T], R], arguments: Sequence[T]) -> list[R]:
    """Returns the function's values in order; one thread for each CPU."""
    if len(arguments) < 2:
        return [function(argument) for argument in arguments]
    return list(_pool().map(function, arguments))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "images")


class PixelImage:
    """An image in memory, of `size`, rows and columns."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        rows, cols, _ = pixels.shape
        self.size = rows, cols

    def crop(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Returns a window scaled to `size`, rows and columns; uint8 [rows, cols, channels].

        By bilinear interpolation, with a filter as wide as the new pixels where the image shrinks.
        """
        top, left, rows, cols = window
        return _resize(self._pixels[top : top + rows, left : left + cols], size)


class EncodedImage:
    """A JPEG or PNG file, upright, of 8 bits, grey or RGB; see `encode_image`."""

    def __init__(self, content: bytes, size: tuple[int, int], channels: int):
        self.content = content
        self.size = size
        self._channels = channels

    def crop(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        """Decodes only the window of a JPEG file."""
        if self.content.startswith(_JPEG):
            return self._decode(window, size)
        with Image.open(io.BytesIO(self.content), formats=["PNG"]) as image:
            pixels = np.asarray(image).reshape(*self.size, self._channels)
        return PixelImage(pixels).crop(window, size)

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


StoredImage = PixelImage | EncodedImage


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
    if image.size == (cols, rows):
        return image
    form = cols / rows
    width, height = float(image.width), float(image.height)
    if width / height >= form:
        width = form * height
    else:
        height = width / form
    left, top = (image.width - width) * 0.5, (image.height - height) * 0.5
    return resize_window(image, size, resample, (left, top, left + width, top + height))
