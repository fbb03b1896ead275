"""Images as sequences of the values of their pixels, for models that predict them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.batches import Batch, Batches, Rows, every_row
from mtfrun.data.cache_directory import EVERY_CACHE, CacheChoice
from mtfrun.data.data import VOCABULARIES, TextData
from mtfrun.data.features import TARGETS, ids_shape
from mtfrun.data.images.image_data import IMAGES, ImageData
from mtfrun.data.order import ONLY_HOST, Host, Selection
from mtfrun.data.token_cache import Cached
from mtfrun.data.vocabularies.pixel_vocabulary import PixelVocabulary


@dataclasses.dataclass(frozen=True)
class PixelData(TextData):
    """Rows that are images: their values row by row, the channels of a pixel together.

    Labels are not read. The bits per byte of an evaluation are bits per value of an image, "bits
    per dimension".

    Attributes:
      images: of one size, or of an `image_size`.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.LanguageModelData()"

    images: ImageData

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {TARGETS: ids_shape(self.images.image.size)}

    @property
    def vocabulary(self) -> PixelVocabulary:
        return PixelVocabulary()

    def train(self, batch: int, *, seed: int, host: Host = ONLY_HOST) -> Batches:
        batches = self.images.train(batch, seed=seed, host=host)
        batches.components = [_PixelRows(rows) for rows in batches.components]
        return batches

    def evaluation(self, batch: int, *, split: str = "validation") -> Iterator[Batch]:
        return every_row(_PixelRows(self.images.rows(split)), batch)

    def caches(self, split: str, choice: CacheChoice = EVERY_CACHE) -> Iterator[Cached]:
        return self.images.caches(split, choice)

    def fingerprint(self) -> dict[str, object]:
        vocabularies = {name: x.fingerprint for name, x in self.vocabularies.items()}
        return {**self.images.fingerprint(), VOCABULARIES: vocabularies}

    def source_summary(self) -> dict[str, object]:
        return self.images.source_summary()

    def examples(self, split: str) -> Iterator[Mapping[str, bytes]]:
        for pixels, _ in self.images.images(split):
            yield {TARGETS: pixels.tobytes()}


@dataclasses.dataclass(frozen=True)
class _PixelRows(Rows):
    images: Rows

    def __len__(self) -> int:
        return len(self.images)

    def take(self, selection: Selection) -> Batch:
        images = self.images.take(selection)[IMAGES]
        return {TARGETS: images.reshape(len(images), -1).astype(np.int32)}

    def padding_of(self, feature: str) -> int:
        return PixelVocabulary.pad_id
