"""Pictures as a network reads them: normalised and, in training, moved and mirrored at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """Makes normalised floats of pictures, on the devices.

    mean, stddev: of the pixels, 0 to 255: one number, or one a channel. Pixels become
        (pixel - mean) / stddev. Pictures that are floats are taken as they are.
    crop_padding: in training every picture is moved by up to so many pixels in each direction, at
        random; what comes in is 0, the mean. He et al. 2015, arXiv:1512.03385, section 4.2: pad,
        then crop.
    flip: in training mirror every second picture, left to right.
    """

    mean: float | Sequence[float] = 127.5
    stddev: float | Sequence[float] = 127.5
    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise InputError(f"crop_padding={self.crop_padding} must not be negative")

    def __call__(self, images: mtf.Tensor, *, training: bool, key: mtf.Key | None) -> mtf.Tensor:
        """Returns float32 {batch, rows, cols, channels} for images of that shape."""
        if not images.dtype.is_floating:
            images = self._normalised(images)
        if training and (self.crop_padding or self.flip):
            if key is None:
                raise InputError("augmentation needs a key in training")
            images = augmented(
                images, key.fold_in("augmentation"), padding=self.crop_padding, flip=self.flip
            )
        return images

    def _normalised(self, images: mtf.Tensor) -> mtf.Tensor:
        channels = images.shape.dims[-1]
        mean, stddev = (
            _per_channel(images.mesh, name, getattr(self, name), channels)
            for name in ("mean", "stddev")
        )
        return (mtf.to_float(images) - mean) / stddev


def augmented(images: mtf.Tensor, key: mtf.Key, *, padding: int, flip: bool) -> mtf.Tensor:
    """Returns every picture moved, and every second one mirrored, at random.

    Each picture draws for itself, from the key and its place in the batch: no layout changes what
    it becomes. Moving is a contraction with a matrix that selects pixels, which runs under every
    layout of the batch.

    Args:
      images: {batch, rows, cols, channels}.
      key: of this step.
      padding: the largest move in pixels.
      flip: whether to mirror.
    """
    batch, rows, cols, _ = images.shape.dims
    rows_from = _moved(images.mesh, batch, rows, key.fold_in("rows"), padding)
    cols_from = _moved(images.mesh, batch, cols, key.fold_in("cols"), padding)
    if flip:
        coin = mtf.random_uniform(images.mesh, [batch], key=key.fold_in("flip"))
        mirrored = mtf.negative(cols_from) + (cols.size - 1)
        cols_from = mtf.where(
            mtf.less(coin, 0.5), mirrored, cols_from, output_shape=cols_from.shape
        )
    images = _selected(images, rows, rows_from)
    return _selected(images, cols, cols_from)


def _moved(
    mesh: mtf.Mesh, batch: mtf.Dimension, dim: mtf.Dimension, key: mtf.Key, padding: int
) -> mtf.Tensor:
    """Returns for every picture and place which place its pixel comes from; {batch, dim} int32."""
    # 24 bits of a uniform number, times at most a few dozen: rounding cannot reach maxval.
    draws = mtf.random_uniform(mesh, [batch], key=key, maxval=float(2 * padding + 1))
    offset = mtf.to_int32(draws) - padding
    places = mtf.range(mesh, dim, tf.int32)
    return mtf.add(offset, places, output_shape=mtf.Shape([batch, dim]))


def _selected(images: mtf.Tensor, dim: mtf.Dimension, places: mtf.Tensor) -> mtf.Tensor:
    """Returns images whose entry i along `dim` is that of places[i], 0 where there is none."""
    source = mtf.Dimension(f"_{dim.name}", dim.size)
    selection = mtf.one_hot(places, source, dtype=images.dtype)
    renamed = mtf.rename_dimension(images, dim.name, source.name)
    return mtf.einsum([renamed, selection], output_shape=images.shape)


def _per_channel(
    mesh: mtf.Mesh, name: str, value: float | Sequence[float], channels: mtf.Dimension
) -> float | mtf.Tensor:
    if isinstance(value, (int, float)):
        return float(value)
    if len(value) != channels.size:
        raise InputError(
            f"ImageInput.{name} has {len(value)} numbers for {channels.size} channels: "
            "give one number, or one a channel"
        )
    return mtf.constant(mesh, list(map(float, value)), [channels])
