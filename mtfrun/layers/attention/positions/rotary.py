"""Rotary positions, and their scalings to longer sequences than in the first training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, check_fields, check_range


class RotaryScaling(Protocol):
    """A change of the frequencies of rotary positions."""

    @property
    def magnitude(self) -> float:
        """The factor of rotated queries and keys; logits have its square."""
        return 1.0

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        """Returns the [d_kv / 2] frequencies to use instead of base ** (-2 * i / d_kv)."""


@runtime_checkable
class LengthScaling(RotaryScaling, Protocol):
    """A change that depends on the length, the number of positions of a row with its padding.

    Where prompts are read at once it is without padding. In steps of decoding it is the number
    until the step; keys in the cache stay as they are.
    """

    def for_length(
        self, mesh: mtf.Mesh, frequencies: np.ndarray, pairs: mtf.Dimension, length: mtf.Tensor
    ) -> mtf.Tensor:
        """Returns {..., pairs}, as `__call__`; length: {...} float32."""


@dataclasses.dataclass(frozen=True)
class DynamicScaling(LengthScaling):
    """The base grows with the length: the slowest pairs turn as far as in the first training.

    Peng et al. 2023, arXiv:2309.00071, section 3.3 and equation 16, "dynamic NTK", as transformers
    computes it: base * (factor * length / original_length - factor + 1) ** (d_kv / (d_kv - 2)).

    Attributes:
      factor: the factor of the length.
      original_length: the positions of the first training; shorter sequences are not scaled.
    """

    factor: float = 2.0
    original_length: int = 2048

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "factor")

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        return frequencies

    def for_length(
        self, mesh: mtf.Mesh, frequencies: np.ndarray, pairs: mtf.Dimension, length: mtf.Tensor
    ) -> mtf.Tensor:
        if pairs.size < 2:
            raise mtf.ShapeError("DynamicScaling needs vectors of at least 4 entries that rotate")
        ratio = mtf.maximum(length * (1.0 / self.original_length), 1.0)
        growth = mtf.log(ratio * self.factor - (self.factor - 1.0))
        exponents = -np.arange(pairs.size) / (pairs.size - 1)
        powers = mtf.constant(mesh, exponents, [pairs], tf.float32)
        powers = mtf.multiply(growth, powers, output_shape=[*length.shape, pairs])
        return mtf.constant(mesh, frequencies, [pairs], tf.float32) * mtf.exp(powers)


@dataclasses.dataclass(frozen=True)
class LongRopeScaling(LengthScaling):
    """LongRoPE: divides each pair by a factor found by search, and enlarges logits.

    Ding et al. 2024, arXiv:2402.13753, section 3.2; in Phi-3.

    Attributes:
      short_factors, long_factors: factors of all pairs, up to `original_length` and above it.
      original_length: the positions of the first training.
      factor: the longest length by `original_length`.
      attention_factor: the magnitude; None for sqrt(1 + ln(factor) / ln(original_length)).
    """

    short_factors: Sequence[float]
    long_factors: Sequence[float]
    original_length: int = 4096
    factor: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        for factor in (self.factor, *self.short_factors, *self.long_factors):
            check_range("a factor of LongRopeScaling", factor, POSITIVE)

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(self.factor) / math.log(self.original_length))

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        return self._divide(frequencies, self.short_factors)

    def for_length(
        self, mesh: mtf.Mesh, frequencies: np.ndarray, pairs: mtf.Dimension, length: mtf.Tensor
    ) -> mtf.Tensor:
        short, long = (
            mtf.constant(mesh, self._divide(frequencies, factors), [pairs], tf.float32)
            for factors in (self.short_factors, self.long_factors)
        )
        is_long = mtf.greater(length, self.original_length)
        return mtf.where(is_long, long, short, [*length.shape, pairs])

    def _divide(self, frequencies: np.ndarray, factors: Sequence[float]) -> np.ndarray:
        if len(factors) != frequencies.size:
            raise InputError(
                f"LongRopeScaling has {len(factors)} factors, and {frequencies.size} pairs rotate"
            )
        return np.asarray(frequencies / np.asarray(factors))


@dataclasses.dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    """Positions are divided by a factor; Chen et al. 2023, arXiv:2306.15595, eq. 3."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "factor")

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Slow rotations are divided by a factor and fast ones are not, with a ramp between: Llama 3.1.

    Grattafiori et al. 2024, arXiv:2407.21783.

    Attributes:
      factor: the divisor of slow rotations.
      low_frequency_factor, high_frequency_factor: pairs that turn less than the first times in the
        original length are slow, more than the second, fast.
      original_length: the positions of the first training.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "factor")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            low, high = self.low_frequency_factor, self.high_frequency_factor
            raise InputError(f"low_frequency_factor={low} must be positive and below {high}")

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        turns = self.original_length * frequencies / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        fast = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return frequencies * (fast + (1.0 - fast) / self.factor)


@dataclasses.dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """As `Llama3Scaling` with a ramp over the pairs, and larger logits: YaRN.

    Peng et al. 2023, arXiv:2309.00071, section 3.2 (their alpha is `slow_turns` and their beta is
    `fast_turns`) and section 3.4 (the magnitude). As in their program the ramp is linear in the
    number of the pair.

    Attributes:
      factor: the divisor of slow rotations.
      original_length: the positions of the first training.
      slow_turns, fast_turns: turns in the original length.
      whole_pairs: the ramp begins and ends at whole pairs, as in their program.
      attention_factor: the magnitude; None for the paper's, 0.1 * ln(factor) + 1.
    """

    factor: float = 4.0
    original_length: int = 2048
    slow_turns: float = 1.0
    fast_turns: float = 32.0
    whole_pairs: bool = True
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "factor")
        if not 0 < self.slow_turns <= self.fast_turns:
            slow, fast = self.slow_turns, self.fast_turns
            raise InputError(f"slow_turns={slow} must be positive and at most fast_turns={fast}")

    @property
    def magnitude(self) -> float:
        magnitude = self.attention_factor
        return yarn_magnitude(self.factor) if magnitude is None else magnitude

    def __call__(self, frequencies: np.ndarray, base: float) -> np.ndarray:
        d_kv = 2 * frequencies.size
        first = self._pair(self.fast_turns, d_kv, base)
        last = self._pair(self.slow_turns, d_kv, base)
        if self.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, d_kv - 1)
        # Not 0, by which the ramp is divided.
        width = last - first or 0.001
        slow = np.clip((np.arange(frequencies.size) - first) / width, 0.0, 1.0)
        return np.asarray(frequencies * (1.0 - slow + slow / self.factor))

    def _pair(self, turns: float, d_kv: int, base: float) -> float:
        """Returns the number of the pair that turns so many times in the original length."""
        longest = self.original_length / (turns * 2 * math.pi)
        return d_kv * math.log(longest) / (2 * math.log(base))


def yarn_magnitude(factor: float, share: float = 1.0) -> float:
    """Returns 0.1 * share * ln(factor) + 1, and 1 for factors up to 1.

    Examples:
      >>> yarn_magnitude(1.0), round(yarn_magnitude(4.0), 4)
      (1.0, 1.1386)
    """
    return 1.0 if factor <= 1.0 else 0.1 * share * math.log(factor) + 1.0


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
        if not isinstance(self.scaling, LengthScaling):
            return mtf.constant(mesh, self.frequencies(2 * pairs.size), [pairs], tf.float32)
        unscaled = dataclasses.replace(self, scaling=None).frequencies(2 * pairs.size)
        length = mtf.to_float(mtf.reduce_max(position, output_shape=position.shape.dims[:-1])) + 1.0
        return self.scaling.for_length(mesh, unscaled, pairs, length)

    @property
    def depends_on_length(self) -> bool:
        return isinstance(self.scaling, LengthScaling)

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
