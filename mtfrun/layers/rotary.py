"""Rotary positions."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.rotary_scaling import RotaryScaling


@dataclasses.dataclass(frozen=True)
class RotaryPositions:
    """How fast the pairs of a query or a key rotate with its position.

    Attributes:
      base: pair i of d_kv / 2 rotates by base ** (-2 * i / d_kv) radians a position.
      scaling: changes these frequencies for sequences longer than those of the first training;
        None leaves them as they are.
    """

    base: float = 10000.0
    scaling: RotaryScaling | None = None

    def frequencies(self, d_kv: int) -> np.ndarray:
        """Returns [d_kv / 2] radians a position, float64.

        Raises:
          ShapeError: `d_kv` is odd.
        """
        if d_kv % 2:
            raise mtf.ShapeError(f"rotary positions need an even d_kv, not {d_kv}")
        frequencies = self.base ** (-np.arange(0, d_kv, 2) / d_kv)
        return frequencies if self.scaling is None else self.scaling(frequencies, self.base)

    @property
    def magnitude(self) -> float:
        """The factor of rotated vectors, 1 but for scalings that say otherwise."""
        return 1.0 if self.scaling is None else self.scaling.magnitude


def rotate(
    x: mtf.Tensor,
    position: mtf.Tensor,
    d_kv: mtf.Dimension,
    positions: RotaryPositions = RotaryPositions(),
) -> mtf.Tensor:
    """Returns x with its vectors rotated by their position; Su et al. 2021, arXiv:2104.09864.

    The product of a rotated query and a rotated key depends on their distance only. As in equation
    34, but with the two halves of a vector as the pairs, which is the same up to the order of d_kv.

    Args:
      x: {..., d_kv}; the result has its type.
      position: an int32 scalar, or {length} where x has that dimension.
      d_kv: an even dimension.
      positions: how fast they rotate.
    """
    half = mtf.Dimension(d_kv.name, d_kv.size // 2)
    frequencies = mtf.constant(x.mesh, positions.frequencies(d_kv.size), [half], tf.float32)
    angle = mtf.multiply(mtf.to_float(position), frequencies, output_shape=[*position.shape, half])
    cos, sin = mtf.cos(angle), mtf.sin(angle)
    if positions.magnitude != 1.0:
        cos, sin = cos * positions.magnitude, sin * positions.magnitude
    first, second = mtf.split(mtf.to_float(x), d_kv, 2)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return mtf.cast(mtf.concat(rotated, d_kv.name), x.dtype)
