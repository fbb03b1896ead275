"""Keys and values of attention, which decoding keeps as its cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf


class KeysAndValues(NamedTuple):
    """The keys and values of a memory.

    Attributes:
      keys, values: {batch..., heads, memory_length, d_kv}, without `heads` where all queries share
        one memory head.
    """

    keys: mtf.Tensor
    values: mtf.Tensor

    @classmethod
    def zeros(cls, mesh: mtf.Mesh, shape: mtf.ShapeLike, dtype: tf.DType) -> KeysAndValues:
        """Returns the empty cache of this shape."""
        zeros = mtf.zeros(mesh, shape, dtype)
        return cls(zeros, zeros)

    def map(self, function: Callable[..., mtf.Tensor], *others: KeysAndValues) -> KeysAndValues:
        """Returns function(keys, ...) and function(values, ...), with those of the others."""
        return KeysAndValues(*map(function, self, *others))
