"""Scalings of rotary positions to longer sequences than in the first training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, check_fields, check_range
from mtfrun.layers.attention.positions.rotary import RotaryScaling


@dataclasses.dataclass(frozen=True)
class DynamicScaling(RotaryScaling):
    """The base grows with the length: the slowest pairs turn as far as in the first training.

    Peng et al. 2023, arXiv:2309.00071, section 3.3 and equation 16, "dynamic NTK", as transformers
    computes it: base * (factor * length / original_length - factor + 1) ** (d_kv / (d_kv - 2)).

    Attributes:
      factor: the factor of the length.
      original_length: the positions of the first training; shorter sequences are not scaled.
    """

    depends_on_length: ClassVar[bool] = True

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
class LongRopeScaling(RotaryScaling):
    """LongRoPE: divides each pair by a factor found by search, and enlarges logits.

    Ding et al. 2024, arXiv:2402.13753, section 3.2; in Phi-3.

    Attributes:
      short_factors, long_factors: factors of all pairs, up to `original_length` and above it.
      original_length: the positions of the first training.
      factor: the longest length by `original_length`.
      attention_factor: the magnitude; None for sqrt(1 + ln(factor) / ln(original_length)).
    """

    depends_on_length: ClassVar[bool] = True

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
