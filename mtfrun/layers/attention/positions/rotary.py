"""Rotary positions."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_fields


class RotaryScaling(abc.ABC):
    """A change of the frequencies of rotary positions.

    Attributes:
      depends_on_length: whether frequencies follow from the length, by `for_length`. It is the
        number of positions of a row, without padding where prompts are read at once, and in steps
        of decoding the number until the step; keys in the cache stay as they are.
    """

    depends_on_length: ClassVar[bool] = False

    @property
    def magnitude(self) -> float:
        """The factor of rotated queries and keys; logits have its square."""
        return 1.0

    @abc.abstractmethod
    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        """Returns the [d_kv / 2] frequencies to use instead of base ** (-2 * i / d_kv)."""

    def for_length(
        self, mesh: mtf.Mesh, frequencies: np.ndarray, pairs: mtf.Dimension, length: mtf.Tensor
    ) -> mtf.Tensor:
        """Returns {..., pairs}, as `__call__`; length: {...} float32."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class RotaryPositions:
    """The rotation of the pairs of a query or a key by its position.

    Attributes:
      base: pair i of d_kv / 2 rotates by base ** (-2 * i / d_kv) radians a position.
      scaling: a change of the frequencies for longer sequences than in the first training.
      rotated: the number of first entries of a vector that rotate, as a vector of this d_kv; the
        others stay; Black et al. 2022, arXiv:2204.06745, section 2.1. None for all.
    """

    base: float = 10000.0
    scaling: RotaryScaling | None = None
    rotated: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "rotated", optional=True)

    def frequencies(self, d_kv: int) -> np.ndarray:
        """Returns [d_kv / 2] radians a position, float64; a ShapeError if `d_kv` is odd."""
        if d_kv % 2:
            raise mtf.ShapeError(f"rotary positions need an even d_kv, not {d_kv}")
        frequencies = self.base ** (-np.arange(0, d_kv, 2) / d_kv)
        return frequencies if self.scaling is None else self.scaling(frequencies, self.base)

    def at(self, position: mtf.Tensor, pairs: mtf.Dimension) -> mtf.Tensor:
        """Returns {pairs} radians a position, float32; position: as of `rotate`.

        Or {batch..., pairs}, if they depend on the length and the position has these dimensions.
        """
        mesh = position.mesh
        if self.scaling is None or not self.scaling.depends_on_length:
            return mtf.constant(mesh, self.frequencies(2 * pairs.size), [pairs], tf.float32)
        unscaled = dataclasses.replace(self, scaling=None).frequencies(2 * pairs.size)
        length = mtf.to_float(mtf.reduce_max(position, output_shape=position.shape.dims[:-1])) + 1.0
        return self.scaling.for_length(mesh, unscaled, pairs, length)

    @property
    def depends_on_length(self) -> bool:
        return self.scaling is not None and self.scaling.depends_on_length

    @property
    def magnitude(self) -> float:
        """The factor of rotated vectors."""
        return 1.0 if self.scaling is None else self.scaling.magnitude


def rotate(
    x: mtf.Tensor,
    position: mtf.Tensor,
    d_kv: mtf.Dimension,
    positions: RotaryPositions = RotaryPositions(),
) -> mtf.Tensor:
    """Returns x with its vectors rotated by their position; Su et al. 2021, arXiv:2104.09864.

    The product of a rotated query and key depends on their distance only. As in equation 34, but
    the pairs are the two halves of a vector, which is the same up to the order of d_kv. x: {...,
    d_kv}; position: int32, a scalar or with dimensions of x, such as {length}.
    """
    if positions.rotated not in (None, d_kv.size):
        if positions.rotated > d_kv.size:
            raise mtf.ShapeError(
                f"RotaryPositions.rotated={positions.rotated} is more than d_kv={d_kv.size}"
            )
        inner = mtf.Dimension(d_kv.name, positions.rotated)
        turning, still = mtf.split(x, d_kv, [inner.size, d_kv.size - inner.size])
        turned = rotate(turning, position, inner, positions)
        return mtf.concat([turned, still], d_kv.name)
    half = mtf.Dimension(d_kv.name, d_kv.size // 2)
    frequencies = positions.at(position, half)
    angle = mtf.multiply(mtf.to_float(position), frequencies, output_shape=[*position.shape, half])
    cos, sin = mtf.cos(angle), mtf.sin(angle)
    if positions.magnitude != 1.0:
        cos, sin = cos * positions.magnitude, sin * positions.magnitude
    first, second = mtf.split(mtf.to_float(x), d_kv, 2)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return mtf.cast(mtf.concat(rotated, d_kv.name), x.dtype)
