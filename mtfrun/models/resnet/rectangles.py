"""Random rectangles of the images of a batch, for cutout and CutMix."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf


def random_interval(dim: mtf.Dimension, half: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
    """Returns 1 in an interval of every image's rows or cols, 0 outside; {batch, dim} float32.

    Its centre is uniform; what is outside of the image is cut off.

    Args:
      dim: rows or cols.
      half: {batch} int32; intervals have 2 * half pixels, from centre - half on.
      key: of the centres.
    """
    (batch,) = half.shape.dims
    # 24 bits of a uniform number times a size: rounding cannot reach maxval.
    draws = mtf.random_uniform(half.mesh, [batch], key=key, maxval=float(dim.size))
    centre = mtf.to_int32(draws)
    index = mtf.range(half.mesh, dim, tf.int32)
    shape = mtf.Shape([batch, dim])
    begins = mtf.less_equal(centre - half, index, output_shape=shape)
    ends = mtf.less(index, centre + half, output_shape=shape)
    return mtf.to_float(begins) * mtf.to_float(ends)
