"""Reading of PNG and JPEG files as operations of TensorFlow, as `data.ImageData.read_image` reads.

What TensorFlow does not know is not regarded: the orientation in EXIF (files are taken as they are
stored) and the colours of CMYK files.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtfrun.data import ImageData
from mtfrun.data.images.crops import CentreCrop
from mtfrun.tools.conversion.saved_model.resampling_graph import BICUBIC, BILINEAR, scaled

_JPEG = b"\xff\xd8"
# JPEG files can be decoded at 1/2, 1/4 or 1/8 of their size.
_RATIOS = (1, 2, 4, 8)


def read_image(data: ImageData, content: tf.Tensor) -> tf.Tensor:
    """Returns the pixels of a file's content, uint8 [rows, cols, channels]."""
    rows, cols, channels = data.image.to_integer_list
    is_jpeg = tf.equal(tf.strings.substr(tf.strings.join([content, b"\0\0"]), 0, 2), _JPEG)
    crop = data.centre_crop
    if crop is None:
        pixels = tf.cond(
            is_jpeg,
            lambda: _in_channels(tf.io.decode_jpeg(content, 3, dct_method=_DCT), channels),
            lambda: _png(content, channels),
        )
        pixels = _fitted(pixels, [rows, cols])
    else:
        pixels = tf.cond(
            is_jpeg,
            lambda: _window_of_jpeg(content, crop, [rows, cols], channels),
            lambda: _window_of(_png(content, channels), crop, [rows, cols]),
        )
    return tf.ensure_shape(pixels, [rows, cols, channels])


# The accurate method of libjpeg, which Pillow uses.
_DCT = "INTEGER_ACCURATE"


def _png(content: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns a PNG file's pixels, transparent ones on white."""
    pixels = tf.cast(tf.io.decode_png(content, 4), tf.int32)
    colour, alpha = pixels[..., :3], tf.where(_lacks_alpha(content), 255, pixels[..., 3:])
    # Pillow's alpha_composite: 7 bits after the point, and x / 255 by two shifts.
    x = 128 * (colour * alpha + 255 * (255 - alpha)) + (128 << 7)
    opaque = ((x // 256 + x) // 256) // 128
    return _in_channels(tf.cast(opaque, tf.uint8), channels)


def _lacks_alpha(content: tf.Tensor) -> tf.Tensor:
    """Returns whether a PNG file has less than 8 bits and no chunk of transparency.

    TensorFlow gives such a file an alpha of 2**bits - 1, which is not opaque.
    """
    depth = tf.io.decode_raw(tf.strings.substr(content, 24, 1), tf.uint8)[0]
    without = tf.strings.regex_replace(content, "tRNS", "", replace_global=False)
    return (depth < 8) & tf.equal(tf.strings.length(without), tf.strings.length(content))


def _in_channels(colour: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns pixels in colour, or grey: the luma of ITU-R 601-2 with 16 bits after the point."""
    if channels == 3:
        return colour
    luma = tf.reduce_sum(tf.cast(colour, tf.int32) * [19595, 38470, 7471], axis=-1, keepdims=True)
    return tf.cast((luma + 0x8000) // 65536, tf.uint8)


def _fitted(pixels: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Returns the largest window in the centre that has the form of `size`, scaled to it."""
    rows, cols = (tf.cast(x, tf.float64) for x in tf.unstack(tf.shape(pixels)[:2]))
    form = size[1] / size[0]
    is_wide = cols / rows >= form
    width = tf.where(is_wide, form * rows, cols)
    height = tf.where(is_wide, rows, cols / form)
    left, top = (cols - width) * 0.5, (rows - height) * 0.5
    return scaled(pixels, size, [left, top, left + width, top + height], BICUBIC)


def _window(shape: tf.Tensor, crop: CentreCrop) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the first row, the first column and the side of the square in the centre, int32."""
    rows, cols = shape[0], shape[1]
    shorter = tf.cast(tf.minimum(rows, cols), tf.float64)
    side = tf.cast(tf.maximum(tf.round(shorter * crop.size / crop.resize), 1.0), tf.int32)
    return (rows - side) // 2, (cols - side) // 2, side


def _window_of(pixels: tf.Tensor, crop: CentreCrop, size: Sequence[int]) -> tf.Tensor:
    """Returns the square in the centre, scaled."""
    top, left, side = _window(tf.shape(pixels), crop)
    end = tf.cast(side, tf.float64)
    zero = tf.zeros_like(end)
    window = pixels[top : top + side, left : left + side]
    return scaled(window, size, [zero, zero, end, end], BILINEAR)


def _window_of_jpeg(
    content: tf.Tensor, crop: CentreCrop, size: Sequence[int], channels: int
) -> tf.Tensor:
    """Returns the square in the centre, decoded at a ratio that leaves at least `size`, scaled."""
    window = _window(tf.io.extract_jpeg_shape(content), crop)
    smaller = tf.minimum(window[2] // size[0], window[2] // size[1])
    choice = tf.reduce_sum(tf.cast(smaller >= list(_RATIOS[1:]), tf.int32))

    def decoded(ratio: int) -> tf.Tensor:
        top, left, side = (tf.cast(x, tf.float64) / ratio for x in window)
        first = [tf.floor(top), tf.floor(left)]
        last = [tf.math.ceil(top + side), tf.math.ceil(left + side)]
        around = [*first, last[0] - first[0], last[1] - first[1]]
        pixels = tf.io.decode_and_crop_jpeg(
            content,
            tf.cast(tf.stack(around), tf.int32),
            channels=channels,
            ratio=ratio,
            dct_method=_DCT,
        )
        x, y = left - first[1], top - first[0]
        shape = tf.shape(pixels)
        return tf.cond(
            tf.reduce_all(tf.equal(shape[:2], list(size))),
            lambda: pixels,
            lambda: scaled(pixels, size, [x, y, x + side, y + side], BILINEAR),
        )

    return tf.switch_case(choice, [lambda ratio=ratio: decoded(ratio) for ratio in _RATIOS])
