"""CutMix: a rectangle of another image in every image; Yun et al. 2019, arXiv:1905.04899.

The other image is the previous one in the batch, as in mixup.py.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.resnet.mixup import NUM_QUANTILES, beta_quantiles, previous_in_batch


def random_interval(dim: mtf.Dimension, half: mtf.Tensor, key: mtf.Key) -> mtf.Tensor:
    """Returns 1 in an interval of every image's rows or cols, 0 outside; {batch, dim} float32.

    Intervals have 2 * `half` {batch} pixels around a uniform centre, but end with the image.
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


def cut_rectangles(
    images: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key, alpha: float
) -> mtf.Tensor:
    """Returns 1 in a random rectangle of every image, 0 outside; {batch, rows, cols} float32.

    Its sides are the image's times sqrt(1 - lambda), with lambda drawn from Beta(alpha, alpha); its
    centre is uniform, and its parts outside of the image are cut off (section 3.1 and appendix A of
    the paper, where alpha is 1: lambda is uniform). Padding, of weight 0, is not pasted.
    """
    batch, rows, cols, _ = images.shape.dims
    mesh = images.mesh
    quantiles = mtf.Dimension("quantiles", NUM_QUANTILES)
    sides = np.sqrt(1.0 - beta_quantiles(alpha, NUM_QUANTILES))
    # 24 bits times 2**10: rounding cannot reach NUM_QUANTILES.
    draws = mtf.random_uniform(mesh, [batch], key=key.fold_in("sides"), maxval=float(NUM_QUANTILES))
    intervals = []
    for dim in (rows, cols):
        table = mtf.constant(mesh, (dim.size * sides).astype(np.int32) // 2, [quantiles], tf.int32)
        half = mtf.gather(table, mtf.to_int32(draws), quantiles)
        intervals.append(random_interval(dim, half, key.fold_in(dim.name)))
    return mtf.einsum(
        [*intervals, previous_in_batch(weights)], output_shape=mtf.Shape([batch, rows, cols])
    )


def paste_previous(images: mtf.Tensor, rectangles: mtf.Tensor) -> mtf.Tensor:
    """Returns the images with the previous images of the batch where `rectangles` is 1."""
    return mtf.where(
        mtf.greater(rectangles, 0.5),
        previous_in_batch(images),
        images,
        output_shape=images.shape,
    )


def uncut_fraction(rectangles: mtf.Tensor) -> mtf.Tensor:
    """Returns the share of each image outside of its rectangle: the paper's final lambda."""
    return 1.0 - mtf.reduce_mean(rectangles, output_shape=mtf.Shape(rectangles.shape.dims[:1]))
