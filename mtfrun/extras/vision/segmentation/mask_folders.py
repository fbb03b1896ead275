"""Folders of images with the files of their masks."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mtfrun.data.errors import DataError
from mtfrun.data.files import absolute_path, file_states
from mtfrun.data.images.image_files import decoding_image, open_image, read_file, resize_to_cover
from mtfrun.data.splits import SPLITS, check_split, split_of
from mtfrun.errors.checks import COUNT, check_items
from mtfrun.extras.vision.segmentation.segmentation_data import SegmentationSource, SegmentedImage

_IMAGES, _MASKS = "images", "masks"
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class MaskFolders(SegmentationSource):
    """JPEG and PNG images, each with a PNG mask, scaled to one size and cropped at the centre.

    The mask of images/a/b.jpg is masks/a/b.png: grey or with a palette, and a pixel is the index of
    its class.

    Attributes:
      directory: has the folders "images" and "masks": a hash of an image's path below "images"
        decides its split, 80 % train, 10 % validation, 10 % test. Or a mapping from split to such a
        directory.
      classes: the name of every class; the first is the background.
      sizes: rows and cols.
      channels: 3 for colour, 1 for grey; other images are converted.
    """

    directory: str | Mapping[str, str]
    classes: Sequence[str]
    sizes: Sequence[int]
    channels: int = 3

    def __post_init__(self) -> None:
        check_items(self, COUNT, "sizes")
        if len(self.sizes) != 2:
            raise DataError(f"MaskFolders.sizes={list(self.sizes)} must be rows and cols")

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.directory!r})"

    @property
    def size(self) -> tuple[int, ...]:
        return (*self.sizes, self.channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.directory) if isinstance(self.directory, Mapping) else SPLITS

    def count(self, split: str) -> int:
        return len(self._paths(split))

    def example(self, split: str, number: int) -> SegmentedImage:
        image_path, mask_path = self._paths(split)[number]
        image, mask = open_image(str(image_path), self.channels), _open_mask(str(mask_path))
        if mask.size != image.size:
            sizes = f"{mask.size} and its image {image.size}"
            raise DataError(f"the mask {mask_path} is {sizes}: they must have the same size")
        rows, cols = self.sizes
        pixels = np.asarray(resize_to_cover(image, (rows, cols), Image.Resampling.BILINEAR))
        indices = np.asarray(resize_to_cover(mask, (rows, cols), Image.Resampling.NEAREST))
        if indices.max() >= len(self.classes):
            what = f"has the class {indices.max()} of {len(self.classes)}, from 0"
            raise DataError(f"the mask {mask_path} {what}: correct MaskFolders.classes")
        return SegmentedImage(pixels.reshape(self.size), indices)

    def fingerprint(self, split: str) -> object:
        files = file_states(path for pair in self._paths(split) for path in pair)
        settings = {
            "classes": list(self.classes),
            "sizes": list(self.sizes),
            "channels": self.channels,
        }
        return {"source": type(self).__name__, "settings": settings, "files": files}

    def _paths(self, split: str) -> list[tuple[Path, Path]]:
        check_split(str(self), split, self.splits)
        pairs = self._by_split[split]
        if not pairs:
            remedy = "give directories per split, {'train': 'cells/train', ...}"
            raise DataError(f'no image of {self.directory} is in split "{split}": {remedy}')
        return pairs

    @functools.cached_property
    def _by_split(self) -> dict[str, list[tuple[Path, Path]]]:
        if isinstance(self.directory, Mapping):
            return {
                split: list(_pairs(directory).values())
                for split, directory in self.directory.items()
            }
        pairs: dict[str, list[tuple[Path, Path]]] = {split: [] for split in SPLITS}
        for name, pair in _pairs(self.directory).items():
            pairs[split_of(name)].append(pair)
        return pairs


def _open_mask(path: str) -> Image.Image:
    """Returns the indices of classes of a PNG file: grey levels, or places in a palette."""
    content = read_file(path)
    with decoding_image(path), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        mode, pixels = image.mode, np.asarray(image)
    if mode not in ("1", "L", "P"):
        rule = "its pixels must be indices of classes, grey or with a palette, in 8 bits"
        raise DataError(f"the mask {path} is {mode}: {rule}")
    return Image.fromarray(pixels.astype(np.uint8))


def _pairs(directory: str) -> dict[str, tuple[Path, Path]]:
    images, masks = (absolute_path(directory) / name for name in (_IMAGES, _MASKS))
    pairs = {}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            name = path.relative_to(images)
            pairs[name.as_posix()] = (path, (masks / name).with_suffix(".png"))
    if not pairs:
        rule = f"the directory must have the folders {_IMAGES} and {_MASKS}"
        raise DataError(f"there is no JPEG or PNG file in {images}: {rule}")
    for path, mask in pairs.values():
        if not mask.is_file():
            raise DataError(f"the image {path} has no mask {mask}")
    return pairs
