"""Image files: checked, upright, and read as pixels of the size that a classifier expects."""

from __future__ import annotations

import functools
import io
import itertools
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from mtfrun.data.errors import DataError
from mtfrun.data.files import LARGEST_CONTENT
from mtfrun.data.images.image_source import ImageExample
from mtfrun.data.images.stored_image import EncodedImage, Window, resize_to_cover
from mtfrun.data.sources.record_files import BadRecords
from mtfrun.display.streams import quiet_stderr
from mtfrun.untrusted import read_regular

FORMATS = ("PNG", "JPEG")
_MODES = {1: "L", 3: "RGB"}
# What Pillow's parsers raise for damaged files.
_DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
)
_SIZE_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# The EXIF tag of the orientation; 1 is upright.
_ORIENTATION, _UPRIGHT = 0x0112, 1
# Images that are decoded together, to be checked: enough to keep threads busy.
_TOGETHER = 128

T = TypeVar("T")
R = TypeVar("R")


def read_image(path: str, size: tuple[int, int, int]) -> np.ndarray:
    """Returns the pixels of a PNG or JPEG file: uint8 [rows, cols, channels], 1 or 3 channels.

    Images are converted to grey (the luma of ITU-R 601-2) or to colour as the channels require. An
    image of another size is scaled to cover rows and cols, by bicubic interpolation, and cropped to
    its centre. It is rotated by its EXIF orientation; transparent pixels become white; 16 bits are
    reduced to the upper 8; of several frames the first one is read. Raises DataError if the file is
    missing, broken, or not a PNG or JPEG.
    """
    rows, cols, channels = size
    image, _ = _open(read_file(path), channels, path)
    if image.size != (cols, rows):
        image = resize_to_cover(image, (rows, cols), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(rows, cols, channels)


def encode_image(content: bytes, channels: int, place: str) -> EncodedImage:
    """Returns a JPEG or PNG file whose pixels need only decoding, after checking that it is whole.

    An upright JPEG file of 8 bits in grey or RGB is returned unchanged, after decoding it once with
    the training decoder; any other image as a PNG file of the pixels that `read_image` describes.
    `place` names the file in messages. Raises DataError as `read_image`.
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                is_plain = (
                    image.format == "JPEG"
                    and image.mode in _MODES.values()
                    and image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT
                )
                return _in_mode(ImageOps.exif_transpose(image), _MODES[channels]), is_plain
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


class ImageFile(NamedTuple):
    """An image file that has not been read; `place` is its path, for messages."""

    place: str
    label: int
    read: Callable[[], bytes]


def check_images(
    files: Iterable[ImageFile], channels: int, bad: BadRecords
) -> Iterator[ImageExample]:
    """Yields the images in their order, after decoding each to see that it is whole."""

    def check(file: ImageFile) -> ImageExample | DataError:
        try:
            return ImageExample(encode_image(file.read(), channels, file.place).content, file.label)
        except DataError as error:
            return error

    remaining = iter(files)
    while chunk := list(itertools.islice(remaining, _TOGETHER)):
        with quiet_stderr():  # libjpeg prints warnings about damaged files
            examples = in_threads(check, chunk)
        for example in examples:
            if isinstance(example, DataError):
                bad.add(str(example))
            else:
                yield example
    bad.warn()
