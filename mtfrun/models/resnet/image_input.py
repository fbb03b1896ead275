"""The input of image classifiers: normalisation, and augmentation in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.checks import INDEX, check_fields
from mtfrun.errors import InputError
from mtfrun.layers import Call
from mtfrun.models.resnet.mixup_and_cutmix import random_interval


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """Normalises images, and augments them in training; on the devices.

    Attributes:
      mean: of the pixels, 0 to 255: one number, or one for each channel.
      stddev: likewise. Pixels become (pixel - mean) / stddev; images of floats are not normalised.
      crop_padding: in training images are shifted by up to so many pixels in each direction, at
        random, and filled up with 0, the mean. This is padding, then random cropping; He et al.
        2015, arXiv:1512.03385, section 4.2.
      flip: in training images are flipped horizontally with probability 1/2.
      cutout: in training a square of so many pixels in each direction becomes 0, the mean, at
        random; 0 for none. It may reach out of the image. DeVries and Taylor 2017,
        arXiv:1708.04552, section 3.2.
    """

    mean: float | Sequence[float] = 127.5
    stddev: float | Sequence[float] = 127.5
    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "crop_padding", "cutout")
        if not (_are_numbers(self.mean) and _are_numbers(self.stddev)):
            raise InputError(
                f"mean={self.mean!r} and stddev={self.stddev!r} must be numbers, or a list of one "
                "for each channel"
            )
        if np.min(self.stddev) <= 0:
            raise InputError(f"stddev={self.stddev} must be above 0: pixels are divided by it")

    def __call__(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns float32 {batch, rows, cols, channels}; augmentation needs the call's key."""
        if not images.dtype.is_floating:
            images = self._normalise(images)
        if not call.training or not (self.crop_padding or self.flip or self.cutout):
            return images
        if call.key is None:
            raise InputError("augmentation needs a key in training")
        key = call.key.fold_in("augmentation")
        if self.crop_padding or self.flip:
            images = augment(images, key, padding=self.crop_padding, flip=self.flip)
        if self.cutout:
            images = cut_out(images, key.fold_in("cutout"), self.cutout)
        return images

    def _normalise(self, images: mtf.Tensor) -> mtf.Tensor:
        channels = images.shape.dims[-1]
        mean, stddev = (
            _per_channel(images.mesh, name, getattr(self, name), channels)
            for name in ("mean", "stddev")
        )
        return (mtf.to_float(images) - mean) / stddev


def _are_numbers(values: float | Sequence[float]) -> bool:
    numbers = values if isinstance(values, Sequence) else [values]
    return bool(numbers) and all(isinstance(number, (int, float)) for number in numbers)


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


def _per_channel(
    mesh: mtf.Mesh, name: str, value: float | Sequence[float], channels: mtf.Dimension
) -> float | mtf.Tensor:
    if isinstance(value, (int, float)):
        return float(value)
    if len(value) != channels.size:
        raise InputError(
            f"ImageInput.{name} has {len(value)} numbers for {channels.size} channels: "
            "give one number, or one for each channel"
        )
    return mtf.constant(mesh, list(map(float, value)), [channels])
