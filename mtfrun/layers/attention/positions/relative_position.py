"""Attention logits by the distance of two positions: trained, or falling by a fixed slope."""

from __future__ import annotations

import abc
import dataclasses
import math

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.attention.masks import BiasTerm
from mtfrun.layers.layer import Call
from mtfrun.layers.recompute import DIFFERENTIATED


def relative_position_bucket(
    relative_position: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Returns the bucket, in [0, num_buckets), of each memory position - query position.

    Raffel et al. 2020, arXiv:1910.10683, section 2.1: short distances have a bucket each, longer
    ones share buckets of logarithmic width up to `max_distance`: an InputError if no bucket is left
    for them. Half of bidirectional buckets are for later positions, which otherwise count as 0.
    """
    distance = -relative_position
    first = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = np.where(distance < 0, num_buckets, 0)
        distance = np.abs(distance)
    distance = np.maximum(distance, 0)
    exact = num_buckets // 2
    if not 0 < exact < max_distance:
        raise InputError(
            f"{num_buckets} buckets for a direction and max_distance={max_distance}: half of the"
            " buckets, at least one, are for single distances, which max_distance must exceed"
        )
    # In float32, and with reciprocals as in Mesh TensorFlow: at exact powers the rounding decides,
    # and checkpoints were trained with it.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) * np.float32(1 / exact))
    per_bucket = np.float32(1 / math.log(max_distance / exact))
    scaled = ratio * per_bucket * np.float32(num_buckets - exact)
    far = np.minimum(exact + scaled.astype(np.int32), num_buckets - 1)
    return np.asarray(first + np.where(distance < exact, distance, far), np.int32)


@dataclasses.dataclass(frozen=True)
class RelativeLogits(BiasTerm):
    """One trained logit for each head and bucket of distances; Raffel et al. 2020, section 2.1.

    table: {heads, buckets} float32; query: {length} and memory: {memory_length}, int32 consecutive
    positions; a query may have any {batch..., length} if not `consecutive`. From `max_distance` on
    all distances share a bucket; later positions have separate logits if `bidirectional`.
    """

    table: mtf.Tensor = dataclasses.field(metadata=DIFFERENTIATED)
    query: mtf.Tensor
    memory: mtf.Tensor
    max_distance: int
    bidirectional: bool
    consecutive: bool = True

    def value(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns {heads, length, memory_length} float32, with the batch of the query.

        In consecutive positions a diagonal has one distance: each query's distances are the
        previous query's, shifted by one.
        """
        if not self.consecutive:
            shape = [*self.query.shape, *self.memory.shape]
            return self._logits(mtf.sub(self.memory, self.query, output_shape=shape))
        length, memory_length = self.query.shape.dims[-1], self.memory.shape.dims[-1]
        # One more than there are: rows of this size, read in steps of one less, move to the left.
        width = mtf.Dimension("distances", length.size + memory_length.size)
        first = mtf.reduce_first(self.memory, memory_length) - mtf.reduce_first(self.query, length)
        relative = mtf.range(self.table.mesh, width) + (first - (length.size - 1))
        by_distance = self._logits(relative)
        outer = (by_distance.shape - width).dims
        rows = mtf.broadcast(by_distance, [*outer, length, width])
        flat = mtf.Dimension("entries", length.size * width.size)
        entries = mtf.replace_dimensions(rows, [length, width], flat)
        shorter = mtf.Dimension("distances", width.size - 1)
        entries = mtf.slice(entries, length.size - 1, length.size * shorter.size, flat.name)
        moved = mtf.reshape(entries, [*outer, length, shorter])
        seen = mtf.slice(moved, 0, memory_length.size, shorter.name)
        return mtf.rename_dimension(seen, shorter.name, memory_length.name)

    def _logits(self, relative: mtf.Tensor) -> mtf.Tensor:
        """Returns the logits {heads, ...} of memory position - query position {...} int32."""
        # From the largest distance on all distances share a bucket, so that a small table suffices.
        buckets, most = self.table.shape.get_dim_by_name("buckets"), self.max_distance
        distances = mtf.Dimension("distance_table", 2 * most + 1)
        bucket_of_distance = relative_position_bucket(
            np.arange(-most, most + 1),
            bidirectional=self.bidirectional,
            num_buckets=buckets.size,
            max_distance=most,
        )
        bucket_table = mtf.constant(self.table.mesh, bucket_of_distance, [distances], np.int32)
        clipped = mtf.maximum(mtf.minimum(relative, most), -most) + most
        bucket = mtf.gather(bucket_table, clipped, distances)
        shape = [*(self.table.shape - buckets), *relative.shape]
        return mtf.gather(self.table, bucket, buckets, output_shape=shape)


class DistanceBias(mtf.Module, abc.ABC):
    """Logits by the distance of int32 positions: {length} or a scalar, and {memory_length}."""

    @abc.abstractmethod
    def term(
        self,
        position: mtf.Tensor,
        memory_position: mtf.Tensor,
        *,
        bidirectional: bool,
        consecutive: bool = True,
    ) -> BiasTerm:
        """Returns the term of a bias; for `consecutive` see `RelativeLogits`."""

    def __call__(
        self, position: mtf.Tensor, memory_position: mtf.Tensor, call: Call, *, bidirectional: bool
    ) -> mtf.Tensor:
        """Returns {heads, length, memory_length} float32; {heads, memory_length} for a scalar."""
        positions = position, memory_position
        term = self.term(*positions, bidirectional=bidirectional, consecutive=False)
        return term.value(tf.float32)


class RelativePositionBias(DistanceBias):
    """A trained table of logits by head and distance; see `RelativeLogits`."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        num_buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        super().__init__()
        self._max_distance = max_distance
        dims = [mtf.Dimension("heads", num_heads), mtf.Dimension("buckets", num_buckets)]
        initial = mtf.initializers.RandomNormal(1.0)
        self.table = mtf.Variable(mesh, dims, initial, dtypes.master, reduced_dims=())

    def term(
        self,
        position: mtf.Tensor,
        memory_position: mtf.Tensor,
        *,
        bidirectional: bool,
        consecutive: bool = True,
    ) -> RelativeLogits:
        return RelativeLogits(
            mtf.to_float(self.table),
            position,
            memory_position,
            self._max_distance,
            bidirectional,
            consecutive,
        )


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


class LinearDistanceBias(DistanceBias):
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

    def term(
        self,
        position: mtf.Tensor,
        memory_position: mtf.Tensor,
        *,
        bidirectional: bool,
        consecutive: bool = True,
    ) -> LinearDistance:
        if bidirectional and self._in_bfloat16:
            raise InputError(
                "LinearDistanceBias.in_bfloat16 is for causal attention: set it to False"
            )
        slopes = mtf.constant(self._mesh, alibi_slopes(self._heads.size), [self._heads], tf.float32)
        return LinearDistance(slopes, position, memory_position, self._scale, self._in_bfloat16)
