"""Batches of images or volumes with a mask, the class of every pixel, and what they are read of."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data.data import Data
from mtfrun.data.errors import DataError
from mtfrun.data.images.image_data import IMAGES, WEIGHTS
from mtfrun.data.images.image_files import in_threads, read_image
from mtfrun.data.rows.batches import Batch, Batches, Rows, every_row
from mtfrun.data.rows.order import ONLY_HOST, Host, Selection
from mtfrun.errors.checks import COUNT, check_range

MASKS = "masks"

# Names of the spatial dimensions by their number.
_SPATIAL = {2: ("rows", "cols"), 3: ("depth", "rows", "cols")}


class SegmentedImage(NamedTuple):
    """`image` uint8 [*spatial, channels], `mask` uint8 [*spatial] of indices of classes."""

    image: np.ndarray
    mask: np.ndarray


class SegmentationSource(abc.ABC):
    """Images of one size with their masks, in splits, read by number; pure and thread-safe."""

    @property
    @abc.abstractmethod
    def size(self) -> tuple[int, ...]:
        """[depth,] rows, cols and channels of every image."""

    @property
    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The name of every class; class 0 is the background."""

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    @abc.abstractmethod
    def count(self, split: str) -> int:
        """Returns the number of images of a split; a DataError for a split that there is not."""

    @abc.abstractmethod
    def example(self, split: str, number: int) -> SegmentedImage:
        """Returns an image by its number, from 0."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> object:
        """Returns JSON that changes when the images may have changed, without reading them."""


@dataclasses.dataclass(frozen=True)
class SegmentationData(Data):
    """Batches of images or volumes with the class of every pixel, for `vision.SegmentationModel`.

    Features: "images" {[depth,] rows, cols, channels}; "masks" {[depth,] rows, cols}; "weights".
    """

    source: SegmentationSource

    @property
    def tokens_per_row(self) -> int:
        return 1

    @property
    def image(self) -> mtf.Shape:
        size = self.source.size
        names = [*_SPATIAL[len(size) - 1], "channels"]
        return mtf.Shape(zip(names, size, strict=True))

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {IMAGES: self.image, MASKS: mtf.Shape(self.image.dims[:-1]), WEIGHTS: mtf.Shape()}

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": len(self.source.class_names), "image": self.image}

    def train(self, batch: int, *, seed: int, host: Host = ONLY_HOST) -> Batches:
        return Batches([self.rows("train")], batch, seed=seed, host=host)

    def evaluation(self, batch: int, *, split: str = "validation") -> Iterator[Batch]:
        check_range("batch", batch, COUNT)
        return every_row(self.rows(split), batch)

    def rows(self, split: str) -> Rows:
        return _SegmentationRows(self.source, split, self.source.count(split))

    def images(self, split: str) -> Iterator[SegmentedImage]:
        for number in range(self.source.count(split)):
            yield self.source.example(split, number)

    def read_image(self, path: str) -> np.ndarray:
        """Returns the pixels of an image file, scaled to cover the size and cropped at the centre.

        Raises DataError if the data are volumes, or the file cannot be read.
        """
        if len(self.source.size) != 3:
            raise DataError(f"{path}: volumes are not read from files: give split:NAME of the data")
        rows, cols, channels = self.source.size
        return read_image(path, (rows, cols, channels))

    @property
    def class_names(self) -> dict[str, Sequence[str]]:
        return {MASKS: self.source.class_names}

    def fingerprint(self) -> dict[str, object]:
        return {"images": self.source.fingerprint("train")}


@dataclasses.dataclass(frozen=True)
class _SegmentationRows(Rows):
    source: SegmentationSource
    split: str
    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, selection: Selection) -> Batch:
        read = functools.partial(self.source.example, self.split)
        images, masks = zip(*in_threads(read, selection.rows.tolist()), strict=True)
        weights = np.ones([len(images)], np.int32)
        return {IMAGES: np.stack(images), MASKS: np.stack(masks), WEIGHTS: weights}
