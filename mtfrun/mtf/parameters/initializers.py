"""Initial values of variables, drawn on the host and the same for every layout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from mtfrun.errors.checks import check_choice
from mtfrun.mtf.parameters.widths import NO_GROWTH, Widths
from mtfrun.mtf.shape import Dimension, Shape


class Initializer(Protocol):
    """A function that returns the initial value of a variable."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        """Returns a float array with the sizes of `shape`."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value for every entry."""

    value: float = 0.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return np.full(shape.to_integer_list, self.value, np.float32)


@dataclasses.dataclass(frozen=True)
class Zeros(Constant):
    """Zero for every entry."""


@dataclasses.dataclass(frozen=True)
class Ones(Constant):
    """One for every entry."""

    value: float = 1.0


@dataclasses.dataclass(frozen=True)
class RandomNormal:
    """Independent draws from a normal distribution."""

    stddev: float = 1.0
    mean: float = 0.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        draws = rng.standard_normal(shape.to_integer_list, dtype=np.float32)
        return draws * np.float32(self.stddev) + np.float32(self.mean)


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Normal draws, redrawn beyond two standard deviations; `stddev` is before truncation."""

    stddev: float = 1.0
    mean: float = 0.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        draws = rng.standard_normal(shape.size, dtype=np.float32)
        while True:
            (outside,) = np.nonzero(np.abs(draws) > 2.0)
            if not outside.size:
                break
            draws[outside] = rng.standard_normal(outside.size, dtype=np.float32)
        draws = draws.reshape(shape.to_integer_list)
        return draws * np.float32(self.stddev) + np.float32(self.mean)


@dataclasses.dataclass(frozen=True)
class RandomUniform:
    """Independent draws, uniform in [minval, maxval)."""

    minval: float = -1.0
    maxval: float = 1.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        draws = rng.random(shape.to_integer_list, dtype=np.float32)
        return draws * np.float32(self.maxval - self.minval) + np.float32(self.minval)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Initializers of linear maps, with variance scale / fan_in, fan_out or fan_avg (their mean).

    He et al. 2015, arXiv:1502.01852; Glorot and Bengio 2010. The distribution is "normal",
    "truncated_normal" or "uniform".

    Examples:
      >>> VarianceScaling()([Dimension("d_model", 16)], [Dimension("d_ff", 64)]).distribution
      RandomNormal(stddev=0.25, mean=0.0)
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "normal"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("fan_in", "fan_out", "fan_avg"))
        check_choice("distribution", self.distribution, ("normal", "truncated_normal", "uniform"))

    def __call__(
        self, reduced_dims: Iterable[Dimension], new_dims: Iterable[Dimension]
    ) -> KernelInitializer:
        """Returns the initializer of a kernel that maps `reduced_dims` to `new_dims`."""
        return KernelInitializer(self, tuple(reduced_dims), tuple(new_dims))


@dataclasses.dataclass(frozen=True)
class KernelInitializer:
    """Draws for a kernel that maps `reduced_dims` to `new_dims`, see `VarianceScaling`."""

    scaling: VarianceScaling
    reduced_dims: tuple[Dimension, ...]
    new_dims: tuple[Dimension, ...]

    def stddev(self, widths: Widths = NO_GROWTH) -> float:
        """Returns the standard deviation; with `widths`, the kernel's at its base sizes."""
        fan_in, fan_out = (
            math.prod(dim.size for dim in dims) / widths.growth(dims)
            for dims in (self.reduced_dims, self.new_dims)
        )
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        return math.sqrt(self.scaling.scale / max(1.0, fans[self.scaling.mode]))

    @property
    def distribution(self) -> Initializer:
        stddev = self.stddev()
        if self.scaling.distribution == "normal":
            return RandomNormal(stddev)
        if self.scaling.distribution == "truncated_normal":
            # Truncation at two standard deviations leaves 0.8796 of the deviation.
            return TruncatedNormal(stddev / 0.87962566103423978)
        limit = math.sqrt(3.0) * stddev
        return RandomUniform(-limit, limit)

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return self.distribution(shape, rng)
