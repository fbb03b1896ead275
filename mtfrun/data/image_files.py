"""Image files, read as pixels of the size that a classifier expects."""

from __future__ import annotations

import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

from mtfrun.data.errors import DataError

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


def read_image(path: str, size: tuple[int, int, int]) -> np.ndarray:
    """Returns the pixels of a PNG or JPEG file: uint8 [rows, cols, channels].

    Images are converted to grey (the luma of ITU-R 601-2) or to colour as the channels require. An
    image of another size is scaled to cover rows and cols, by bicubic interpolation, and cropped to
    its centre. It is rotated by its EXIF orientation; transparent pixels become white; 16 bits are
    reduced to the upper 8; of several frames the first one is read.

    Args:
      path: of the file.
      size: (rows, cols, channels), 1 or 3 channels.

    Raises:
      DataError: the file is missing, broken, or no PNG or JPEG; or `channels` is neither 1 nor 3.
    """
    rows, cols, channels = size
    if channels not in _MODES:
        raise DataError(f"images of {channels} channels cannot be read from files, only of 1 or 3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                converted = _in_mode(ImageOps.exif_transpose(image), _MODES[channels])
    except FileNotFoundError:
        raise DataError(f"no image {path}: check its name") from None
    except _SIZE_ERRORS as error:
        raise DataError(f"the image {path} is too large: {error}") from None
    except _DAMAGE_ERRORS as error:
        reason = getattr(error, "strerror", None) or "broken, or no PNG or JPEG"
        raise DataError(f"cannot read the image {path}: {reason}") from error
    if converted.size != (cols, rows):
        converted = ImageOps.fit(converted, (cols, rows), Image.Resampling.BICUBIC)
    return np.asarray(converted).reshape(rows, cols, channels)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Returns an opaque image of 8 bits, grey ("L") or in colour ("RGB")."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits clips instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
