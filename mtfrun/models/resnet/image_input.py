"""The input of image classifiers: normalisation, and augmentation in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, check_fields
from mtfrun.layers import Call
from mtfrun.models.resnet.augmentation import augment, cut_out

_SPATIAL = frozenset(["depth", "rows", "cols"])


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """Normalises images or volumes, and augments them in training; on the devices.

    Attributes:
      mean: of the pixels, 0 to 255: one number, or one for each channel.
      stddev: likewise. Pixels become (pixel - mean) / stddev; images of floats are not normalised.
      crop_padding: in training images are shifted by up to so many pixels in each direction, at
        random, and filled up with 0, the mean. This is padding, then random cropping; He et al.
        2015, arXiv:1512.03385, section 4.2.
      flip: in training images are flipped with probability 1/2: horizontally, or, independently,
        along each dimension of a list, such as ["rows", "cols"], or ["depth", "rows", "cols"] of
        volumes.
      cutout: in training a square of so many pixels in each direction becomes 0, the mean, at
        random; 0 for none. It may reach out of the image. DeVries and Taylor 2017,
        arXiv:1708.04552, section 3.2.
    """

    mean: float | Sequence[float] = 127.5
    stddev: float | Sequence[float] = 127.5
    crop_padding: int = 0
    flip: bool | Sequence[str] = False
    cutout: int = 0

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "crop_padding", "cutout")
        is_list = isinstance(self.flip, Sequence) and not isinstance(self.flip, str)
        if not (isinstance(self.flip, bool) or (is_list and _SPATIAL.issuperset(self.flip))):
            raise InputError(
                f"ImageInput.flip={self.flip!r} must be True, False or a list of dimensions, such "
                'as ["rows", "cols"]'
            )
        if not (_are_numbers(self.mean) and _are_numbers(self.stddev)):
            raise InputError(
                f"mean={self.mean!r} and stddev={self.stddev!r} must be numbers, or a list of one "
                "for each channel"
            )
        if np.min(self.stddev) <= 0:
            raise InputError(f"stddev={self.stddev} must be above 0: pixels are divided by it")

    def __call__(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns float32 {batch, *spatial, channels}; augmentation needs the call's key."""
        images = self.normalise(images)
        return self.augment(images, call) if call.training and self.augments else images

    @property
    def augments(self) -> bool:
        """Whether images are changed in training."""
        return bool(self.crop_padding or self.flip or self.cutout)

    def augment(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns normalised images that are changed at random; needs the call's key."""
        if call.key is None:
            raise InputError("augmentation needs a key in training")
        key = call.key.fold_in("augmentation")
        if self.crop_padding or self.flip:
            flip = ["cols"] if self.flip is True else self.flip or []
            images = augment(images, key, padding=self.crop_padding, flip=flip)
        if self.cutout:
            images = cut_out(images, key.fold_in("cutout"), self.cutout)
        return images

    def normalise(self, images: mtf.Tensor) -> mtf.Tensor:
        """Returns float32 images {..., channels}; floats are returned as they are."""
        if images.dtype.is_floating:
            return images
        channels = images.shape.dims[-1]
        mean, stddev = (
            _per_channel(images.mesh, name, getattr(self, name), channels)
            for name in ("mean", "stddev")
        )
        return (mtf.to_float(images) - mean) / stddev


def _are_numbers(values: float | Sequence[float]) -> bool:
    numbers = values if isinstance(values, Sequence) else [values]
    return bool(numbers) and all(isinstance(number, (int, float)) for number in numbers)


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
