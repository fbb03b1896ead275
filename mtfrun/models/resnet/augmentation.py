"""Augmentation of images and volumes on the devices: random crops, flips and cutout."""

from __future__ import annotations

from collections.abc import Collection

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError


def augment(images: mtf.Tensor, key: mtf.Key, *, padding: int, flip: Collection[str]) -> mtf.Tensor:
    """Returns every image {batch, *spatial, channels} shifted and flipped at random.

    It is shifted along all spatial dimensions by up to `padding`, and flipped along each of the
    dimensions `flip` with probability 1/2.

    The random numbers of an image depend on the key and its index in the batch: no
    layout changes the result. Pixels are selected by a contraction with a one-hot matrix, which
    runs under every layout of the batch.
    """
    batch, *spatial, _ = images.shape.dims
    names = [dim.name for dim in spatial]
    for name in flip:
        if name not in names:
            raise InputError(
                f'ImageInput.flip has "{name}", and images have {", ".join(names)}: leave it out'
            )
    for dim in spatial if padding else [dim for dim in spatial if dim.name in flip]:
        indices = _shifted_indices(images.mesh, batch, dim, key.fold_in(dim.name), padding)
        if dim.name in flip:
            # Horizontal flips have had this key since there were no others.
            of_coin = key.fold_in("flip" if dim.name == "cols" else f"flip_{dim.name}")
            coin = mtf.random_uniform(images.mesh, [batch], key=of_coin)
            flipped = mtf.negative(indices) + (dim.size - 1)
            indices = mtf.where(mtf.less(coin, 0.5), flipped, indices, output_shape=indices.shape)
        images = _select(images, dim, indices)
    return images


def cut_out(images: mtf.Tensor, key: mtf.Key, size: int) -> mtf.Tensor:
    """Returns every image with a random square of 0; see `augment` for its random numbers.

    The square has 2 * (size // 2) pixels in each direction, as in the authors' code.
    """
    batch, rows, cols, _ = images.shape.dims
    half = mtf.constant(images.mesh, size // 2, [batch], tf.int32)
    intervals = [random_interval(dim, half, key.fold_in(dim.name)) for dim in (rows, cols)]
    square = mtf.einsum(intervals, output_shape=mtf.Shape([batch, rows, cols]))
    return images * (1.0 - square)


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
