"""Learning rates as functions of the step.

A schedule is called with the global step, `t` in formulas, 0 for the first update. For an integer
it returns a float, for a scalar tensor a scalar tensor (or a float, if the value does not depend
on the step). Schedules can be composed:

Examples:
      >>> schedule = Product([0.5, LinearWarmup(1000), TruncatedRsqrt(1000)])
      >>> [round(schedule(step), 5) for step in (0, 500, 1000, 4000)]
      [0.0, 0.00791, 0.01581, 0.00791]
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, SHARE_ABOVE_0, check_fields

Scalar: TypeAlias = "float | mtf.Tensor"
"""A Python number, or a named tensor without dimensions."""


def to_float(x: Scalar) -> Scalar:
    """Returns x as a Python float or a float32 tensor (exact up to step 2 ** 24)."""
    return mtf.cast(x, tf.float32) if isinstance(x, mtf.Tensor) else float(x)


def either(
    tensor_function: Callable[..., Scalar], number_function: Callable[..., Scalar]
) -> Callable[..., Scalar]:
    """Returns the function of a scalar that takes numbers and tensors."""

    def function(x: Scalar, *arguments: Scalar) -> Scalar:
        return (tensor_function if isinstance(x, mtf.Tensor) else number_function)(x, *arguments)

    return function


# For tensors without the gradients of `mtf.minimum` and `mtf.maximum`.
minimum = either(functools.partial(mtf.binary_op_with_broadcasting, tf.minimum), min)
maximum = either(functools.partial(mtf.binary_op_with_broadcasting, tf.maximum), max)
rsqrt = either(mtf.rsqrt, lambda x: 1.0 / math.sqrt(x))
_sin = either(mtf.sin, math.sin)
# x ** exponent, for a positive x.
power = either(lambda x, exponent: mtf.exp(mtf.log(x) * exponent), math.pow)


def one_minus_power(base: float, exponent: Scalar) -> Scalar:
    """Returns 1 - base ** exponent for 0 < base < 1, without cancellation.

    1 - 0.999 in float32 has a relative error of 5e-5. With y = exponent * log(base) the difference
    is 1 - exp(y) = -tanh(y / 2) * (1 + exp(y)); its factors are accurate for small y as well.
    """
    if not isinstance(exponent, mtf.Tensor):
        return 0.0 - math.expm1(exponent * math.log(base))
    y = exponent * math.log(base)
    return mtf.tanh(y * -0.5) * (mtf.exp(y) + 1.0)


class Schedule(Protocol):
    """Anything that maps the global step to a learning rate."""

    def __call__(self, step: Scalar, /) -> Scalar:
        """Returns the learning rate for the update number `step`, counted from 0."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same `value` at every step."""

    value: float

    def __call__(self, step: Scalar, /) -> Scalar:
        return self.value


def warmup(step: Scalar, warmup_steps: float, total_steps: int | None) -> Scalar:
    """Returns min(1, t / warmup_steps); below 1 `warmup_steps` is a share of `total_steps`."""
    if warmup_steps < 1 and total_steps is not None:
        warmup_steps = max(1.0, warmup_steps * total_steps)
    return minimum(to_float(step) / warmup_steps, 1.0)


@dataclasses.dataclass(frozen=True)
class LinearWarmup:
    """min(1, t / warmup_steps): rises from 0 to 1, then remains 1.

    Examples:
      >>> [LinearWarmup(100)(step) for step in (0, 25, 100, 1000)]
      [0.0, 0.25, 1.0, 1.0]
      >>> LinearWarmup(0.1, total_steps=60)(3)
      0.5

    Attributes:
      warmup_steps: steps until the value is 1; below 1 a share of `total_steps`.
    """

    warmup_steps: float
    total_steps: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "warmup_steps")
        check_fields(self, POSITIVE, "total_steps", optional=True)
        if self.warmup_steps < 1 and self.total_steps is None:
            share = f"LinearWarmup.warmup_steps={self.warmup_steps:g} is a share of total_steps"
            raise InputError(f"{share}: set total_steps, or a number of steps")

    def __call__(self, step: Scalar, /) -> Scalar:
        return warmup(step, self.warmup_steps, self.total_steps)


@dataclasses.dataclass(frozen=True)
class TruncatedRsqrt:
    """1 / sqrt(max(t, warmup_steps)): constant at first, then falling.

    Examples:
      >>> [TruncatedRsqrt(100)(step) for step in (0, 100, 400)]
      [0.1, 0.1, 0.05]
    """

    warmup_steps: int = 10_000

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "warmup_steps")

    def __call__(self, step: Scalar, /) -> Scalar:
        return rsqrt(maximum(to_float(step), self.warmup_steps))


@dataclasses.dataclass(frozen=True)
class LinearDecay:
    """min(1, (total_steps - t) / (fraction * total_steps)): 1, then a line to 0 at `total_steps`.

    Examples:
      >>> [LinearDecay(1000, fraction=0.5)(step) for step in (0, 500, 750, 1000, 2000)]
      [1.0, 1.0, 0.5, 0.0, 0.0]

    With `extrapolate` it falls below 0 after `total_steps`, as in Mesh TensorFlow.
    """

    total_steps: int
    fraction: float = 0.1
    extrapolate: bool = False

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "total_steps")
        check_fields(self, SHARE_ABOVE_0, "fraction")

    def __call__(self, step: Scalar, /) -> Scalar:
        remaining = self.total_steps - to_float(step)
        value = minimum(remaining / (self.fraction * self.total_steps), 1.0)
        return value if self.extrapolate else maximum(value, 0.0)


@dataclasses.dataclass(frozen=True)
class CosineDecay:
    """minimum + (1 - minimum) * (1 + cos(pi * min(t, total_steps) / total_steps)) / 2.

    Half a period from 1 to `minimum`, then constant. Loshchilov & Hutter 2017, "SGDR", equation 5,
    without restarts: https://arxiv.org/abs/1608.03983

    Examples:
      >>> [round(CosineDecay(100)(step), 6) for step in (0, 50, 100, 1000)]
      [1.0, 0.5, 0.0, 0.0]
    """

    total_steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "total_steps")

    def __call__(self, step: Scalar, /) -> Scalar:
        # (1 + cos(pi * (1 - r))) / 2 = sin(pi * r / 2) ** 2, which does not cancel near the end.
        remaining = minimum(maximum(self.total_steps - to_float(step), 0.0) / self.total_steps, 1.0)
        root = _sin(remaining * (math.pi / 2))
        return root * root * (1.0 - self.minimum) + self.minimum


@dataclasses.dataclass(frozen=True)
class Product:
    """The product of schedules and numbers.

    Examples:
      >>> Product([0.5, LinearWarmup(100), Constant(0.1)])(50)
      0.025
    """

    factors: Sequence[Schedule | float]

    def __call__(self, step: Scalar, /) -> Scalar:
        # Numbers first, in Python: fewer operations in the step.
        value: Scalar = math.prod(f for f in self.factors if not callable(f))
        for factor in self.factors:
            if callable(factor):
                value = value * factor(step)
        return value


@dataclasses.dataclass(frozen=True)
class Shifted:
    """schedule(t - start_step), for fine-tuning: as if training began at the checkpoint's step.

    Examples:
      >>> Shifted(LinearWarmup(100), start_step=5000)(5050)
      0.5
    """

    schedule: Schedule
    start_step: int

    def __call__(self, step: Scalar, /) -> Scalar:
        return self.schedule(to_float(step) - self.start_step)


def noam(
    total_steps: int,
    warmup_steps: int = 10_000,
    decay_fraction: float = 0.1,
    multiplier: float = 1.0,
) -> Schedule:
    """Returns multiplier / sqrt(max(t, warmup_steps)), with a linear decay to 0 at the end.

    The schedule of T5's pre-training: `TruncatedRsqrt(warmup_steps)` times
    `LinearDecay(total_steps, decay_fraction)`; with a `decay_fraction` of 0 there is no decay.

    Examples:
      >>> schedule = noam(total_steps=1000, warmup_steps=100)
      >>> [round(schedule(step), 5) for step in (0, 100, 400, 900, 950)]
      [0.1, 0.1, 0.05, 0.03333, 0.01622]
    """
    factors: list[Schedule | float] = [multiplier, TruncatedRsqrt(warmup_steps)]
    if decay_fraction:
        factors.append(LinearDecay(total_steps, decay_fraction))
    return Product(factors)
