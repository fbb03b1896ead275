"""Attention logits that fall with the distance of two positions, by a fixed slope for each head."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.attention.masks import BiasTerm
from mtfrun.layers.layer import Call


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns [num_heads] slopes; Press et al. 2021, arXiv:2108.12409, section 3.

    A geometric sequence from 2 ** (-8 / n) for n heads, a power of 2; of further heads, as in their
    program, every other slope of 2 n heads.

    Examples:
      >>> alibi_slopes(8).tolist()[:3], alibi_slopes(3).tolist()
      ([0.5, 0.25, 0.125], [0.0625, 0.00390625, 0.25])
    """
    power = 2 ** int(math.log2(num_heads))

    def sequence(number: int) -> np.ndarray:
        return 2.0 ** (-8.0 / number * np.arange(1, number + 1))

    further = sequence(2 * power)[::2][: num_heads - power]
    return np.concatenate([sequence(power), further])


@dataclasses.dataclass(frozen=True)
class LinearDistance(BiasTerm):
    """-slope * distance; slopes {heads} float32, query {length}, memory {memory_length} int32.

    For `scale` and `in_bfloat16` see `LinearDistanceBias`.
    """

    slopes: mtf.Tensor
    query: mtf.Tensor
    memory: mtf.Tensor
    scale: float = 1.0
    in_bfloat16: bool = False

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns {heads, length, memory_length} float32: large distances need its digits."""
        if self.in_bfloat16:
            return self._rounded_positions()
        shape = [*self.query.shape, *self.memory.shape]
        distance = mtf.abs(mtf.sub(self.query, self.memory, output_shape=shape))
        shape = [*self.slopes.shape, *shape]
        slopes = self.slopes * self.scale if self.scale != 1.0 else self.slopes
        return mtf.multiply(slopes, -mtf.to_float(distance), output_shape=shape)

    def _rounded_positions(self) -> mtf.Tensor:
        slopes, memory = (
            mtf.to_float(mtf.cast(x, tf.bfloat16)) for x in (self.slopes, self.memory)
        )
        # The product of two bfloat16 is exact in float32.
        product = mtf.multiply(slopes, memory, output_shape=[*slopes.shape, *memory.shape])
        rounded = mtf.to_float(mtf.cast(product, tf.bfloat16)) * self.scale
        return mtf.broadcast(rounded, [*slopes.shape, *self.query.shape, *memory.shape])


class LinearDistanceBias(mtf.Module):
    """ALiBi, see `alibi_slopes` and `LinearDistance`: instead of positions, without variables.

    Args:
      num_heads: heads of queries.
      scale: a factor of the slopes: d_kv ** -0.5 in Falcon, which scales logits and bias together.
      in_bfloat16: the bias is slope * memory position, rounded to bfloat16, as Falcon's: for causal
        attention the same as -slope * distance but for rounding, since softmax ignores what all
        memory positions of a query have in common.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        scale: float = 1.0,
        in_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self._mesh = mesh
        self._scale, self._in_bfloat16 = scale, in_bfloat16
        self._heads = mtf.Dimension("heads", num_heads)

    def __call__(
        self, position: mtf.Tensor, memory_position: mtf.Tensor, call: Call, *, bidirectional: bool
    ) -> mtf.Tensor:
        """Returns {heads, length, memory_length} float32; {heads, memory_length} for one position.

        position: {length} int32 or an int32 scalar; memory_position: {memory_length} int32.
        """
        return self.term(position, memory_position, bidirectional=bidirectional).value(tf.float32)

    def term(
        self, position: mtf.Tensor, memory_position: mtf.Tensor, *, bidirectional: bool
    ) -> LinearDistance:
        """Returns the same as a term of a bias; InputError for positions in both directions."""
        if bidirectional and self._in_bfloat16:
            raise InputError(
                "LinearDistanceBias.in_bfloat16 is for causal attention: set it to False"
            )
        slopes = mtf.constant(self._mesh, alibi_slopes(self._heads.size), [self._heads], tf.float32)
        return LinearDistance(slopes, position, memory_position, self._scale, self._in_bfloat16)
