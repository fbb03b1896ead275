"""Rows of labelled images from a cache, cropped, scaled and augmented."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mtfrun.data.images.crops import Crop
from mtfrun.data.images.image_cache import ImageCache, PixelCache
from mtfrun.data.images.image_files import in_threads
from mtfrun.data.images.stored_image import StoredImage
from mtfrun.data.rows import Batch, Rows, Selection

IMAGES, LABELS, WEIGHTS = "images", "labels", "weights"

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Changes an image, uint8 [rows, cols, channels], with draws of a generator."""


@dataclasses.dataclass(frozen=True)
class PixelRows(Rows):
    """Images of one size as the cache stores them; a batch is one gather."""

    cache: PixelCache

    def __len__(self) -> int:
        return len(self.cache)

    def take(self, selection: Selection) -> Batch:
        return _features(self.cache, selection, self.cache.pixels[selection.rows])


@dataclasses.dataclass(frozen=True)
class CroppedRows(Rows):
    """Windows of images, scaled to `size`, rows and columns, and augmented in order; in threads."""

    cache: ImageCache
    size: tuple[int, int]
    crop: Crop
    augmentations: Sequence[Augmentation] = ()

    def __len__(self) -> int:
        return len(self.cache)

    def take(self, selection: Selection) -> Batch:
        images = self.cache.images(selection.rows)
        prepared = in_threads(self._prepare, list(zip(images, selection.generators(), strict=True)))
        return _features(self.cache, selection, np.stack(prepared))

    def _prepare(self, image_and_noise: tuple[StoredImage, np.random.Generator]) -> np.ndarray:
        image, generator = image_and_noise
        pixels = image.crop(self.crop(image.size, generator), self.size)
        for augment in self.augmentations:
            pixels = augment(pixels, generator)
        return pixels


def _features(cache: ImageCache, selection: Selection, images: np.ndarray) -> Batch:
    labels = cache.labels[selection.rows]
    return {IMAGES: images, LABELS: labels, WEIGHTS: np.ones_like(labels)}
