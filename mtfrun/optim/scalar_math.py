"""Functions of Python numbers or named tensors: schedules run in the step and in Python."""

from __future__ import annotations

import math
from typing import TypeAlias

import tensorflow as tf

from mtfrun import mtf

Scalar: TypeAlias = "float | mtf.Tensor"
"""A Python number, or a named tensor without dimensions."""


def to_float(x: Scalar) -> Scalar:
    """Returns x as a Python float or a float32 tensor (exact up to step 2 ** 24)."""
    return mtf.cast(x, tf.float32) if isinstance(x, mtf.Tensor) else float(x)


def minimum(x: Scalar, bound: Scalar) -> Scalar:
    """Returns the smaller of the two; for tensors without the gradients of `mtf.minimum`."""
    if isinstance(x, mtf.Tensor):
        return mtf.binary_op_with_broadcasting(tf.minimum, x, bound)
    return min(x, bound)


def maximum(x: Scalar, bound: Scalar) -> Scalar:
    """Returns the larger of the two; for tensors without the gradients of `mtf.maximum`."""
    if isinstance(x, mtf.Tensor):
        return mtf.binary_op_with_broadcasting(tf.maximum, x, bound)
    return max(x, bound)


def rsqrt(x: Scalar) -> Scalar:
    """Returns 1 / sqrt(x)."""
    return mtf.rsqrt(x) if isinstance(x, mtf.Tensor) else 1.0 / math.sqrt(x)


def sin(x: Scalar) -> Scalar:
    """Returns the sine of x, in radians."""
    return mtf.sin(x) if isinstance(x, mtf.Tensor) else math.sin(x)


def power(x: Scalar, exponent: float) -> Scalar:
    """Returns x ** exponent, for a positive x."""
    return mtf.exp(mtf.log(x) * exponent) if isinstance(x, mtf.Tensor) else x**exponent


def one_minus_power(base: float, exponent: Scalar) -> Scalar:
    """Returns 1 - base ** exponent for 0 < base < 1, without cancellation.

    1 - 0.999 in float32 has a relative error of 5e-5. With y = exponent * log(base) the difference
    is 1 - exp(y) = -tanh(y / 2) * (1 + exp(y)), whose factors are accurate for small y as well.
    """
    if not isinstance(exponent, mtf.Tensor):
        return 0.0 - math.expm1(exponent * math.log(base))
    y = exponent * math.log(base)
    return mtf.tanh(y * -0.5) * (mtf.exp(y) + 1.0)
