"""The input of image classifiers: normalisation, and augmentation in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, POSITIVE, Range, check_fields, check_range
from mtfrun.layers import Call

_SPATIAL = frozenset(["depth", "rows", "cols"])


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """Normalises images or volumes, and augments them in training; on the devices.

    Attributes:
      mean, stddev: a number, or one for each channel. Pixels, 0 to 255, become (pixel - mean) /
        stddev; images of floats are not normalised.
      crop_padding: the largest random shift in each direction, in pixels, filled up with 0, the
        mean: padding, then random cropping; He et al. 2015, arXiv:1512.03385, section 4.2.
      flip: whether images are flipped horizontally with probability 1/2; or a list of dimensions,
        such as ["depth", "rows", "cols"] of volumes, each flipped independently.
      cutout: the side of a random square that becomes 0, the mean; it may reach out of the image;
        0 disables it. DeVries and Taylor 2017, arXiv:1708.04552, section 3.2.
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
            rule = "must be True, False or a list of spatial dimensions"
            raise InputError(f"ImageInput.flip={self.flip!r} {rule}")
        for name, allowed in (("mean", Range(-1e6, 1e6)), ("stddev", POSITIVE)):
            value = getattr(self, name)
            for number in value if isinstance(value, Sequence) else [value]:
                check_range(f"ImageInput.{name}", number, allowed)

    def __call__(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns float32 {batch, *spatial, channels}; augmentation needs the call's key."""
        images = self.normalise(images)
        return self.augment(images, call) if call.training and self.augments else images

    @property
    def augments(self) -> bool:
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
        channels, values = images.shape.dims[-1], list[float | mtf.Tensor]()
        for name in ("mean", "stddev"):
            value = getattr(self, name)
            if isinstance(value, Sequence):
                if len(value) != channels.size:
                    number = f"{len(value)} numbers for {channels.size} channels"
                    raise InputError(f"ImageInput.{name} has {number}")
                value = mtf.constant(images.mesh, list(map(float, value)), [channels])
            values.append(value if isinstance(value, mtf.Tensor) else float(value))
        mean, stddev = values
        return (mtf.to_float(images) - mean) / stddev


def augment(images: mtf.Tensor, key: mtf.Key, *, padding: int, flip: Collection[str]) -> mtf.Tensor:
    """Returns every image {batch, *spatial, channels} shifted and flipped at random.

    The random numbers of an image depend on the key and its index in the batch, so that no layout
    changes the result. Pixels are selected by a contraction with a one-hot matrix, which runs under
    every layout of the batch.
    """
    batch, *spatial, _ = images.shape.dims
    names = [dim.name for dim in spatial]
    for name in flip:
        if name not in names:
            raise InputError(f'ImageInput.flip has "{name}", and images have {", ".join(names)}')
    for dim in spatial if padding else [dim for dim in spatial if dim.name in flip]:
        # 24 bits of a uniform number, times at most a few dozen: rounding cannot reach maxval.
        maxval, shift_key = float(2 * padding + 1), key.fold_in(dim.name)
        draws = mtf.random_uniform(images.mesh, [batch], key=shift_key, maxval=maxval)
        index = mtf.range(images.mesh, dim, tf.int32)
        # The source index of every pixel.
        indices = mtf.add(mtf.to_int32(draws) - padding, index, output_shape=[batch, dim])
        if dim.name in flip:
            # Horizontal flips have had this key since there were no others.
            flip_key = key.fold_in("flip" if dim.name == "cols" else f"flip_{dim.name}")
            coin = mtf.random_uniform(images.mesh, [batch], key=flip_key)
            flipped = mtf.negative(indices) + (dim.size - 1)
            indices = mtf.where(mtf.less(coin, 0.5), flipped, indices, output_shape=indices.shape)
        source = mtf.Dimension(f"_{dim.name}", dim.size)
        selection = mtf.one_hot(indices, source, dtype=images.dtype)
        renamed = mtf.rename_dimension(images, dim.name, source.name)
        images = mtf.einsum([renamed, selection], output_shape=images.shape)
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
