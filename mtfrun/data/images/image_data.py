"""Batches of labelled images, for classifiers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import Cached
from mtfrun.data.data import Data, short_json
from mtfrun.data.errors import DataError
from mtfrun.data.images.crops import CentreCrop, Crop, WholeImage
from mtfrun.data.images.image_cache import ImageCache, open_cache
from mtfrun.data.images.image_files import (
    StoredImage,
    encode_image,
    in_threads,
    read_file,
    read_image,
)
from mtfrun.data.images.image_source import ImageSize, ImageSource
from mtfrun.data.rows.batches import Batch, Batches, Rows, every_row
from mtfrun.data.rows.order import ONLY_HOST, Host, Selection
from mtfrun.errors.checks import COUNT, Range, check_fields, check_range

IMAGES, LABELS, WEIGHTS = "images", "labels", "weights"

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Changes an image, uint8 [rows, cols, channels], with draws of a generator."""

# Networks for images of 224 pixels are evaluated on the centre of images of 256.
_RESIZE = 256 / 224
# Images that are decoded together, in threads.
_TOGETHER = 32
# The largest size of an image in a run's record of its source.
_LARGEST_SIDE = 1 << 16


class _SourceSummary(NamedTuple):
    """The properties of an `ImageSource` that a model needs."""

    size: ImageSize
    label_names: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.label_names[:5]) + ", ..." * (len(self.label_names) > 5)
        return f"{len(self.label_names)} classes ({names}) of size {self.size}"


@dataclasses.dataclass(frozen=True)
class ImageData(Data):
    """Batches of labelled images.

    Attributes:
      image_size: rows and columns to scale images to; None if all have one size, which stays.
      resize: pixels of the shorter side before a square of `image_size` is cut out of the centre,
        in evaluation and classification; by default 256 for 224, and in proportion.
      crop: the choice of an image's window in training, such as @data.RandomResizedCrop(); None for
        the window of evaluation.
      augmentations: functions of an image and a numpy generator, applied in training, in order.
        More are part of the network, see `resnet.ImageInput`.
      cache_dir: directory of all caches; by default $MTFRUN_CACHE_DIR, else ~/.cache/mtfrun.
      trained_source: `source_summary` of the data that the model was trained on, which the run
        directory stores; by default the summary of `source`.
    """

    source: ImageSource
    image_size: int | None = None
    resize: int | None = None
    crop: Crop | None = None
    augmentations: Sequence[Augmentation] = ()
    cache_dir: str | None = None
    trained_source: Mapping[str, Any] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "image_size", optional=True)
        if self.resize is not None and self.image_size is None:
            raise DataError(f"ImageData: resize={self.resize} needs an image_size as well")
        if self.image_size is not None:
            at_least = Range(self.image_size, whole=True)
            check_fields(self, at_least, "resize", optional=True)

    @property
    def tokens_per_row(self) -> int:
        return 1

    @property
    def image(self) -> mtf.Shape:
        sizes = (*self._rows_and_cols, self._summary.size[-1])
        return mtf.Shape(zip(("rows", "cols", "channels"), sizes, strict=True))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._summary.label_names

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {IMAGES: self.image, LABELS: mtf.Shape(), WEIGHTS: mtf.Shape()}

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": len(self.label_names), "image": self.image}

    def train(self, batch: int, *, seed: int, host: Host = ONLY_HOST) -> Batches:
        rows = self.rows("train")
        if self.crop or self.augmentations:
            crop = self.crop or self._crop_of_evaluation
            rows = dataclasses.replace(rows, crop=crop, augmentations=self.augmentations)
        return Batches([rows], batch, seed=seed, host=host)

    def evaluation(self, batch: int, *, split: str = "validation") -> Iterator[Batch]:
        check_range("batch", batch, COUNT)
        return every_row(self.rows(split), batch)

    def rows(self, split: str) -> ImageRows:
        return ImageRows(self._rows_and_cols, self.centre_crop, self._cache(split))

    def images(self, split: str) -> Iterator[tuple[np.ndarray, int]]:
        """Yields the images of a split in order, as for evaluation, and their labels."""
        for batch in every_row(self.rows(split), _TOGETHER):
            examples = zip(batch[IMAGES], batch[LABELS].tolist(), batch[WEIGHTS], strict=True)
            yield from ((image, label) for image, label, weight in examples if weight)

    def read_image(self, path: str) -> np.ndarray:
        """Returns the pixels of an image file, scaled and cropped as for evaluation."""
        channels = self._summary.size[-1]
        if self.image_size is None:
            return read_image(path, (*self._rows_and_cols, channels))
        image = encode_image(read_file(path), channels, path)
        window = self._crop_of_evaluation(image.size, np.random.default_rng(0))
        return image.crop(window, self._rows_and_cols)

    @property
    def class_names(self) -> dict[str, Sequence[str]]:
        return {LABELS: self.label_names}

    @property
    def cached_tasks(self) -> Sequence[str]:
        return [self.source.title]

    def caches(self, split: str, choice: CacheChoice = EVERY_CACHE) -> Iterator[Cached]:
        title = self.source.title
        if choice.includes(title):
            cache = self._cache(split, choice)
            size = sum(path.stat().st_size for path in cache.directory.iterdir())
            counts = {"images": len(cache), "bytes": size}
            yield Cached(title, split, counts, cache.directory, cache.fingerprint)

    def fingerprint(self) -> dict[str, object]:
        return {
            "images": self._cache("train").fingerprint,
            "labels": short_json(list(self.label_names)),
            "image_size": self.image_size,
            "crop": repr(self.crop or self._crop_of_evaluation),
            "augmentations": [repr(augmentation) for augmentation in self.augmentations],
        }

    def source_summary(self) -> dict[str, object]:
        return self._summary._asdict()

    @functools.cached_property
    def _summary(self) -> _SourceSummary:
        if self.trained_source is None:
            return _SourceSummary(self.source.size, self.source.label_names)
        try:
            rows, cols, channels = self.trained_source["size"]
            names = self.trained_source["label_names"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"ImageData.trained_source is not a summary: {error}") from error
        sides = [side for side in (rows, cols) if side is not None]
        is_size = all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in sides)
        is_list = isinstance(names, list | tuple) and all(type(name) is str for name in names)
        if not is_size or not is_list or channels not in (1, 2, 3, 4):
            raise DataError("ImageData.trained_source has values that no source has")
        return _SourceSummary((rows, cols, channels), tuple(names))

    @property
    def _rows_and_cols(self) -> tuple[int, int]:
        if self.image_size is not None:
            return self.image_size, self.image_size
        rows, cols, _ = self._summary.size
        if rows is None or cols is None:
            who = f"the images of {self.source}"
            raise DataError(f"{who} have different sizes: set ImageData.image_size, such as 224")
        return rows, cols

    @property
    def centre_crop(self) -> CentreCrop | None:
        """The window of an image in evaluation and classification; None for the whole image."""
        if self.image_size is None:
            return None
        return CentreCrop(self.image_size, self.resize or round(self.image_size * _RESIZE))

    @property
    def _crop_of_evaluation(self) -> Crop:
        return self.centre_crop or WholeImage()

    def _cache(self, split: str, choice: CacheChoice = EVERY_CACHE) -> ImageCache:
        present = _SourceSummary(self.source.size, self.source.label_names)
        if present != self._summary:
            trained = f"the run was trained on {self._summary}"
            remedy = "name images of the same classes and size"
            raise DataError(f"{self.source} has {present}, and {trained}: {remedy}")
        choice = dataclasses.replace(choice, cache_dir=choice.cache_dir or self.cache_dir)
        return open_cache(self.source, split, choice)


@dataclasses.dataclass(frozen=True)
class ImageRows(Rows):
    """Windows of images, scaled to `size`, rows and columns, and augmented in order; in threads.

    Without a crop, images of one size as the cache stores them: a batch is one gather.
    """

    size: tuple[int, int]
    crop: Crop | None
    cache: ImageCache
    augmentations: Sequence[Augmentation] = ()

    def __len__(self) -> int:
        return len(self.cache)

    def take(self, selection: Selection) -> Batch:
        if self.crop is None and self.cache.pixels is not None:
            images = self.cache.pixels[selection.rows]
        else:
            stored = zip(self.cache.images(selection.rows), selection.generators(), strict=True)
            images = np.stack(in_threads(self._prepare, list(stored)))
        labels = self.cache.labels[selection.rows]
        return {IMAGES: images, LABELS: labels, WEIGHTS: np.ones_like(labels)}

    def _prepare(self, image_and_noise: tuple[StoredImage, np.random.Generator]) -> np.ndarray:
        image, generator = image_and_noise
        assert self.crop is not None
        pixels = image.crop(self.crop(image.size, generator), self.size)
        for augment in self.augmentations:
            pixels = augment(pixels, generator)
        return pixels
