"""Attention logits by the distance of two positions."""

from __future__ import annotations

import math

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.call import Call


def relative_position_bucket(
    relative_position: np.ndarray, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Returns the bucket, in [0, num_buckets), of each memory position - query position.

    Raffel et al. 2020, arXiv:1910.10683, section 2.1: short distances have a bucket each, longer
    ones share buckets whose width grows with the logarithm, up to `max_distance`.

    Args:
      relative_position: integers of any shape.
      bidirectional: half of the buckets are for later positions, which otherwise count as 0.
      num_buckets, max_distance: as above.

    Raises:
      InputError: no bucket is left for distances that share one.
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


class RelativePositionBias(mtf.Module):
    """One trained logit for each head and bucket of distances; Raffel et al. 2020, section 2.1."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        num_buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        """Makes the spec of the table {heads, buckets}; `num_heads` is that of the attention."""
        super().__init__()
        self._mesh = mesh
        self._heads = mtf.Dimension("heads", num_heads)
        self._buckets = mtf.Dimension("buckets", num_buckets)
        self._max_distance = max_distance
        self.table = mtf.Variable(
            mesh, [self._heads, self._buckets], mtf.initializers.RandomNormal(1.0), dtypes.master
        )

    def __call__(
        self,
        position: mtf.Tensor,
        memory_position: mtf.Tensor,
        call: Call,
        *,
        bidirectional: bool,
    ) -> mtf.Tensor:
        """Returns {heads, length, memory_length} float32; {heads, memory_length} for one position.

        Args:
          position: {length} int32 or an int32 scalar.
          memory_position: {memory_length} int32, the positions attended to.
          call: see `Call`.
          bidirectional: whether later positions have logits of their own.
        """
        # From the largest distance on all distances share a bucket, so that a small table suffices.
        largest = self._max_distance
        distances = mtf.Dimension("distances", 2 * largest + 1)
        bucket_of_distance = relative_position_bucket(
            np.arange(-largest, largest + 1),
            bidirectional=bidirectional,
            num_buckets=self._buckets.size,
            max_distance=largest,
        )
        buckets = mtf.constant(self._mesh, bucket_of_distance, [distances], np.int32)
        shape = [*position.shape, *memory_position.shape]
        relative = mtf.sub(memory_position, position, output_shape=shape)
        relative = mtf.maximum(mtf.minimum(relative, largest), -largest) + largest
        bucket = mtf.gather(buckets, relative, distances)
        table = mtf.to_float(self.table)
        return mtf.gather(table, bucket, self._buckets, output_shape=[self._heads, *shape])
