"""Rotary positions."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtfrun import mtf

_BASE = 10000.0


def rotate(x: mtf.Tensor, position: mtf.Tensor, d_kv: mtf.Dimension) -> mtf.Tensor:
    """Returns x with its vectors rotated by their position; Su et al. 2021, arXiv:2104.09864.

    The product of a rotated query and a rotated key depends on their distance only. As in equation
    34, but with the two halves of a vector as the pairs, which is the same up to the order of d_kv.

    Args:
      x: {..., d_kv}; the result has its type.
      position: an int32 scalar, or {length} where x has that dimension.
      d_kv: an even dimension.
    """
    if d_kv.size % 2:
        raise mtf.ShapeError(f"rotary positions need an even d_kv, not {d_kv}")
    half = mtf.Dimension(d_kv.name, d_kv.size // 2)
    frequency = _BASE ** (-np.arange(half.size) / half.size)
    frequencies = mtf.constant(x.mesh, frequency, [half], tf.float32)
    angle = mtf.multiply(mtf.to_float(position), frequencies, output_shape=[*position.shape, half])
    cos, sin = mtf.cos(angle), mtf.sin(angle)
    first, second = mtf.split(mtf.to_float(x), d_kv, 2)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return mtf.cast(mtf.concat(rotated, d_kv.name), x.dtype)
