"""The types of parameters and activations."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class DTypePolicy:
    """The types of a model's parameters and activations.

    Softmax, losses, norms and gating always compute in float32. Types may be names, as in gin
    files.

    Attributes:
      master: the type of parameters. Optimizer slots and updates have at least float32.
      activation: the type of activations.

    Examples:
      >>> DTypePolicy(activation="bfloat16").activation.name
      'bfloat16'
    """

    master: tf.DType | str = tf.float32
    activation: tf.DType | str = tf.float32

    def __post_init__(self) -> None:
        for field in ("master", "activation"):
            object.__setattr__(self, field, _float_type(field, getattr(self, field)))


def _float_type(field: str, dtype: tf.DType | str) -> tf.DType:
    try:
        dtype = tf.as_dtype(dtype)
    except TypeError:
        raise InputError(f"{field}={dtype!r} is not a type: give 'float32' or 'bfloat16'") from None
    if not dtype.is_floating:
        raise InputError(f"{field}={dtype.name!r} must be a float type: 'float32' or 'bfloat16'")
    return dtype
