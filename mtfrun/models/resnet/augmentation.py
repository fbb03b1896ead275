"""Augmentation of images on the devices: random crops, flips and cutout."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.resnet.mixup_and_cutmix import random_interval


def augment(images: mtf.Tensor, key: mtf.Key, *, padding: int, flip: bool) -> mtf.Tensor:
    """Returns every image shifted and, with probability 1/2, flipped horizontally.

    The random numbers of an image depend on the key and its index in the batch: no
    layout changes the result. Pixels are selected by a contraction with a one-hot matrix, which
    runs under every layout of the batch.
    """
    batch, rows, cols, _ = images.shape.dims
    source_rows = _shifted_indices(images.mesh, batch, rows, key.fold_in("rows"), padding)
    source_cols = _shifted_indices(images.mesh, batch, cols, key.fold_in("cols"), padding)
    if flip:
        coin = mtf.random_uniform(images.mesh, [batch], key=key.fold_in("flip"))
        flipped = mtf.negative(source_cols) + (cols.size - 1)
        source_cols = mtf.where(
            mtf.less(coin, 0.5), flipped, source_cols, output_shape=source_cols.shape
        )
    images = _select(images, rows, source_rows)
    return _select(images, cols, source_cols)


def cut_out(images: mtf.Tensor, key: mtf.Key, size: int) -> mtf.Tensor:
    """Returns every image with a random square of 0; see `augment` for its random numbers.

    The square has 2 * (size // 2) pixels in each direction, as in the authors' code.
    """
    batch, rows, cols, _ = images.shape.dims
    half = mtf.constant(images.mesh, size // 2, [batch], tf.int32)
    intervals = [random_interval(dim, half, key.fold_in(dim.name)) for dim in (rows, cols)]
    square = mtf.einsum(intervals, output_shape=mtf.Shape([batch, rows, cols]))
    return images * (1.0 - square)


def _shifted_indices(
    mesh: mtf.Mesh, batch: mtf.Dimension, dim: mtf.Dimension, key: mtf.Key, padding: int
) -> mtf.Tensor:
    """Returns the source index along `dim` of every pixel of every image; {batch, dim} int32."""
    # 24 bits of a uniform number, times at most a few dozen: rounding cannot reach maxval.
    draws = mtf.random_uniform(mesh, [batch], key=key, maxval=float(2 * padding + 1))
    offset = mtf.to_int32(draws) - padding
    indices = mtf.range(mesh, dim, tf.int32)
    return mtf.add(offset, indices, output_shape=mtf.Shape([batch, dim]))


def _select(images: mtf.Tensor, dim: mtf.Dimension, indices: mtf.Tensor) -> mtf.Tensor:
    source = mtf.Dimension(f"_{dim.name}", dim.size)
    selection = mtf.one_hot(indices, source, dtype=images.dtype)
    renamed = mtf.rename_dimension(images, dim.name, source.name)
    return mtf.einsum([renamed, selection], output_shape=images.shape)
