"""Correlation between the entries along a dimension."""

from __future__ import annotations

from mtfrun import mtf


def corr(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns {dim_1, dim_2}: Pearson's correlation of every two entries along `dim`.

    Args:
      x: {samples, dim} in any order: the samples are the other dimensions.
      dim: the dimension of the entries; those of the result have its name with `_1` and `_2`.
    """
    centred = x - mtf.reduce_mean(x, output_shape=[dim])
    # Both from one sum of squares, so that the diagonal is 1.
    normal = centred * mtf.rsqrt(mtf.reduce_sum(mtf.square(centred), output_shape=[dim]))
    first, second = (mtf.Dimension(f"{dim.name}_{i}", dim.size) for i in (1, 2))
    sides = [mtf.rename_dimension(normal, dim.name, side.name) for side in (first, second)]
    return mtf.einsum(sides, output_shape=[first, second])
