"""Keys and values of attention, of a sequence or cached in decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf


class KeysAndValues(NamedTuple):
    """Cached {batch..., heads, memory_length, d_kv} each, without `heads` if queries share one."""

    keys: mtf.Tensor
    values: mtf.Tensor

    @classmethod
    def zeros(cls, mesh: mtf.Mesh, shape: mtf.ShapeLike, dtype: tf.DType) -> KeysAndValues:
        """Returns the empty cache of this shape."""
        zeros = mtf.zeros(mesh, shape, dtype)
        return cls(zeros, zeros)

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> KeysAndValues:
        return KeysAndValues(*map(function, self))


class SharedKeysAndValues(NamedTuple):
    """Cached {batch..., heads, memory_length, d_kv} that are keys and values."""

    keys: mtf.Tensor

    @property
    def values(self) -> mtf.Tensor:
        return self.keys

    def map(self, function: Callable[[mtf.Tensor], mtf.Tensor]) -> SharedKeysAndValues:
        return SharedKeysAndValues(function(self.keys))


AttentionMemory = KeysAndValues | SharedKeysAndValues


def extend_cache(
    cache: Any, entries: Any, position: mtf.Tensor, condition: mtf.Tensor | None = None
) -> Any:
    """Returns the cache with the entries of a position, or of consecutive positions {block}.

    cache: nested {batch..., memory_length, ...}; entries: as nested, {batch..., ...}, or with
    `block`. condition: {batch...} bool: where it is false the cache of a position stays.
    """

    def write(memory: mtf.Tensor, entry: mtf.Tensor) -> mtf.Tensor:
        memory_length = memory.shape.get_dim_by_name("memory_length")
        if not position.shape.ndims:
            return mtf.write_position(memory, entry, memory_length, position, condition)
        block = position.shape.dims[-1]
        return mtf.write_block(
            memory, entry, memory_length, block, mtf.reduce_first(position, block)
        )

    return tf.nest.map_structure(write, cache, entries)
