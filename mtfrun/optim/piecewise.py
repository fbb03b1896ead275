"""Schedules in pieces: warm-up, stable phase and decay; joined schedules; lines; cycles."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    check_choice,
    check_fields,
)
from mtfrun.optim.schedules import Scalar, Schedule, either, maximum, minimum, to_float, warmup

_sqrt, _exp = either(mtf.sqrt, math.sqrt), either(mtf.exp, math.exp)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """A line from 0 to 1, then 1, then a decay to `minimum` at `total_steps`: WSD.

    Hu et al. 2024, "MiniCPM", equation 1, https://arxiv.org/abs/2404.06395. After the share p of
    the decay, "sqrt" is 1 - sqrt(p), the best that Haegele et al. 2024 compare (section 4,
    https://arxiv.org/abs/2405.18392), and "linear" is 1 - p.

    Before the decay the rate does not depend on `total_steps`: a checkpoint from then can be
    trained for any number of further steps.

    Examples:
      >>> schedule = WarmupStableDecay(1000, warmup_steps=100, decay_fraction=0.2)
      >>> [round(schedule(step), 3) for step in (0, 50, 100, 800, 850, 1000)]
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Attributes:
      total_steps: steps until the decay ends.
      warmup_steps: steps until the value is 1; below 1 a share of `total_steps`.
      decay_fraction: the part of them in which the value falls.
      decay: "sqrt" or "linear".
      minimum: the last value.
    """

    total_steps: int
    warmup_steps: float
    decay_fraction: float = 0.1
    decay: str = "sqrt"
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "total_steps", "warmup_steps")
        check_fields(self, SHARE_ABOVE_0, "decay_fraction")
        check_fields(self, SHARE_BELOW_1, "minimum")
        check_choice("WarmupStableDecay.decay", self.decay, ("sqrt", "linear"))

    def __call__(self, step: Scalar, /) -> Scalar:
        t = to_float(step)
        length = self.decay_fraction * self.total_steps
        p = minimum(maximum(t - (self.total_steps - length), 0.0) / length, 1.0)
        if self.decay == "sqrt":
            p = _sqrt(p)
        rise = warmup(t, self.warmup_steps, self.total_steps)
        return rise * (1.0 - p * (1.0 - self.minimum))


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """pieces[0] before step boundaries[0], pieces[1] from there to boundaries[1], and so on.

    Each schedule among the pieces is called with the number of steps since its piece began.

    Examples:
      >>> schedule = Piecewise([100, 200], [1.0, 0.1, PiecewiseLinear({0: 0.1, 50: 0.0})])
      >>> [round(schedule(step), 3) for step in (0, 99, 100, 200, 225, 250)]
      [1.0, 1.0, 0.1, 0.1, 0.05, 0.0]
    """

    boundaries: Sequence[int]
    pieces: Sequence[Schedule | float]

    def __post_init__(self) -> None:
        _check_ascending("Piecewise.boundaries", self.boundaries)
        if len(self.pieces) != len(self.boundaries) + 1:
            sizes = f"{len(self.pieces)} pieces and {len(self.boundaries)} boundaries"
            raise InputError(f"Piecewise has {sizes}: it needs one piece more than boundaries")

    def __call__(self, step: Scalar, /) -> Scalar:
        t = to_float(step)
        value = _value(self.pieces[0], t)
        for boundary, piece in zip(self.boundaries, self.pieces[1:], strict=True):
            after = _value(piece, maximum(t - boundary, 0.0))
            if isinstance(t, mtf.Tensor):
                value = mtf.where(t < boundary, value, after)
            elif t >= boundary:
                value = after
        return value


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    """Lines between points (step, value); constant before the first and after the last.

    Examples:
      >>> schedule = PiecewiseLinear({0: 0.0, 10: 1.0, 30: 0.5})
      >>> [schedule(step) for step in (0, 5, 10, 20, 30, 100)]
      [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    """

    points: Mapping[int, float]

    def __post_init__(self) -> None:
        _check_ascending("PiecewiseLinear.points", list(self.points))

    def __call__(self, step: Scalar, /) -> Scalar:
        t = to_float(step)
        points = list(self.points.items())
        value: Scalar = points[0][1]
        for (begin, _), (end, last) in itertools.pairwise(points):
            share = minimum(maximum(t - begin, 0.0) / (end - begin), 1.0)
            value = (1.0 - share) * value + share * last  # at both ends exact
        return value


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """schedule(t mod period): a schedule that begins again every `period` steps.

    Of a `CosineDecay` these are the warm restarts of Loshchilov & Hutter 2017, "SGDR", equation 5,
    https://arxiv.org/abs/1608.03983; of a `PiecewiseLinear` that rises and falls, the triangles of
    Smith 2017, section 3, https://arxiv.org/abs/1506.01186, with a `factor` of 0.5 "triangular2".

    Examples:
      >>> schedule = Cyclic(PiecewiseLinear({0: 0.0, 50: 1.0, 100: 0.0}), period=100, factor=0.5)
      >>> [round(schedule(step), 3) for step in (0, 50, 75, 100, 150, 250)]
      [0.0, 1.0, 0.5, 0.0, 0.5, 0.25]

    `factor` multiplies the values of every further cycle.
    """

    schedule: Schedule
    period: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "period")
        check_fields(self, POSITIVE, "factor")

    def __call__(self, step: Scalar, /) -> Scalar:
        t = to_float(step)
        position = t % self.period
        value = self.schedule(position)
        if self.factor == 1.0:
            return value
        decay = _exp((t - position) / self.period * math.log(self.factor))
        return decay * value


def _value(piece: Schedule | float, step: Scalar) -> Scalar:
    return piece(step) if callable(piece) else piece


def _check_ascending(name: str, steps: Sequence[int]) -> None:
    is_ascending = all(a < b for a, b in itertools.pairwise(steps))
    if not steps or steps[0] not in NOT_NEGATIVE or not is_ascending:
        raise InputError(
            f"{name} has the steps {list(steps)}: they must ascend from a number of at least 0"
        )
