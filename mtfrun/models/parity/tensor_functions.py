"""Functions of tensors: limits of the lengths of outputs, and correlation."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf


def decode_limits(
    inputs: mtf.Tensor, multiplier: float, constant: int, *, batch_wide: bool = False
) -> mtf.Tensor:
    """Returns {batch} int32: int(number of ids in the input * multiplier + constant).

    A row without any id has the limit 0: it pads the batch. Mesh TensorFlow has 1.5, 10 and
    `batch_wide`: the limit of the longest input for all rows, which then depend on each other.
    """
    batch, length = inputs.shape
    numbers = mtf.reduce_sum(mtf.to_int32(mtf.not_equal(inputs, 0)), reduced_dim=length)
    filled = mtf.greater(numbers, 0)
    if batch_wide:
        numbers = mtf.broadcast(mtf.reduce_max(numbers), [batch])
    limits = mtf.cast(mtf.to_float(numbers) * multiplier + float(constant), tf.int32)
    return mtf.where(filled, limits, 0)


def corr(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns {dim_1, dim_2}: Pearson's correlation of every two entries of x {samples, dim}."""
    centred = x - mtf.reduce_mean(x, output_shape=[dim])
    # Both from one sum of squares, so that the diagonal is 1.
    normal = centred * mtf.rsqrt(mtf.reduce_sum(mtf.square(centred), output_shape=[dim]))
    first, second = (mtf.Dimension(f"{dim.name}_{i}", dim.size) for i in (1, 2))
    sides = [mtf.rename_dimension(normal, dim.name, side.name) for side in (first, second)]
    return mtf.einsum(sides, output_shape=[first, second])
