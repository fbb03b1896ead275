"""The slanted triangular learning rate of Mesh TensorFlow."""

from __future__ import annotations

import dataclasses
import math

from mtfrun.errors import InputError
from mtfrun.optim.schedules import Scalar, maximum, minimum, to_float


@dataclasses.dataclass(frozen=True)
class SlantedTriangular:
    """maximum * (1 + p * (ratio - 1)) / ratio: a short linear rise, a long linear fall.

    With cut = floor(total_steps * cut_fraction), p = t / cut rises from 0 to 1 before the cut and
    p = 1 - (t - cut) / (cut * (1 / cut_fraction - 1)) falls back to 0 after it. Howard & Ruder
    2018, "Universal language model fine-tuning", equation 3: https://arxiv.org/abs/1801.06146

    Examples:
      >>> [SlantedTriangular(100, ratio=10)(step) for step in (0, 10, 55, 100, 200)]
      [0.001, 0.01, 0.0055, 0.001, 0.001]

    `ratio` is the highest rate, `maximum`, by the lowest. With `extrapolate` p falls below 0
    outside of the training, as in Mesh TensorFlow.
    """

    total_steps: int
    cut_fraction: float = 0.1
    ratio: float = 32.0
    maximum: float = 0.01
    extrapolate: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.cut_fraction < 1 or self.total_steps * self.cut_fraction < 1:
            share = f"SlantedTriangular.cut_fraction is {self.cut_fraction} of {self.total_steps}"
            raise InputError(f"{share} steps; it must be less than 1 and come to at least one step")

    def __call__(self, step: Scalar, /) -> Scalar:
        t = to_float(step)
        cut = math.floor(self.total_steps * self.cut_fraction)
        rising = t / cut
        falling = 1.0 - (t - cut) / (cut * (1.0 / self.cut_fraction - 1.0))
        # The two lines cross where both are 1, so the triangle is the lower of them everywhere.
        p = minimum(rising, falling)
        p = p if self.extrapolate else maximum(p, 0.0)
        return (p * (self.ratio - 1.0) + 1.0) * (self.maximum / self.ratio)
