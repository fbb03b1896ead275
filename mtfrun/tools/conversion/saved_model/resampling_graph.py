"""Scaling of images as operations of TensorFlow, with the numbers of Pillow.

Pillow's filters have weights of 22 bits after the point, and the result of each of the two passes,
first along the rows, is rounded to 8 bits: src/libImaging/Resample.c of
https://github.com/python-pillow/Pillow. Products of such weights and pixels are exact in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

_BITS = 22


@dataclasses.dataclass(frozen=True)
class Filter:
    """An interpolation.

    Attributes:
      support: the distance from which on the weight is 0, in pixels.
      weight: of distances, float64.
    """

    support: float
    weight: Callable[[tf.Tensor], tf.Tensor]


def _triangle(x: tf.Tensor) -> tf.Tensor:
    return tf.maximum(1.0 - tf.abs(x), 0.0)


def _cubic(x: tf.Tensor) -> tf.Tensor:
    # Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711, with a = -0.5.
    a = -0.5
    x = tf.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))


BILINEAR = Filter(1.0, _triangle)
BICUBIC = Filter(2.0, _cubic)


def scaled(
    pixels: tf.Tensor, size: Sequence[int], box: Sequence[tf.Tensor], interpolation: Filter
) -> tf.Tensor:
    """Returns the window `box` of an image, scaled; uint8 [rows, cols, channels].

    Args:
      pixels: uint8 [rows, cols, channels], of any size.
      size: rows and columns of the result.
      box: left, top, right and bottom, float64.
      interpolation: the filter, which is wider where pixels get larger.
    """
    left, top, right, bottom = box
    shape = tf.shape(pixels)
    across = _weights(shape[1], left, right, size[1], interpolation)
    x = _rounded(tf.einsum("oc,rck->rok", across, tf.cast(pixels, tf.float64)))
    down = _weights(shape[0], top, bottom, size[0], interpolation)
    return tf.cast(_rounded(tf.einsum("or,rck->ock", down, x)), tf.uint8)


def _weights(
    length: tf.Tensor, first: tf.Tensor, last: tf.Tensor, size: int, interpolation: Filter
) -> tf.Tensor:
    """Returns the weights [size, length] of pixels, whole numbers of 2**-22, float64."""
    first, last = (tf.cast(x, tf.float32) for x in (first, last))
    scale = tf.cast(last - first, tf.float64) / size
    wider = tf.maximum(scale, 1.0)
    support = interpolation.support * wider
    middle = tf.cast(first, tf.float64) + (tf.range(size, dtype=tf.float64) + 0.5) * scale
    middle = middle[:, None]
    # Positive numbers are cut off where they become integers.
    begin = tf.floor(tf.maximum(middle - support + 0.5, 0.0))
    end = tf.minimum(tf.floor(middle + support + 0.5), tf.cast(length, tf.float64))
    pixels = tf.range(tf.cast(length, tf.float64), dtype=tf.float64)
    weights = interpolation.weight((pixels - middle + 0.5) * (1.0 / wider))
    weights = tf.where((pixels >= begin) & (pixels < end), weights, 0.0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    weights *= 1 << _BITS
    return tf.sign(weights) * tf.floor(tf.abs(weights) + 0.5)


def _rounded(x: tf.Tensor) -> tf.Tensor:
    """Returns sums of weighted pixels as pixels, float64."""
    return tf.clip_by_value(tf.floor(x / (1 << _BITS) + 0.5), 0.0, 255.0)
