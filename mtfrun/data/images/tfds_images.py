"""Labelled images of TFDS datasets, embedded or prepared on this machine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.images.image_source import (
    ImageExample,
    ImageFile,
    ImageSize,
    ImageSource,
    check_images,
)
from mtfrun.data.sources.embedded_datasets import DIGITS, EmbeddedDataset
from mtfrun.data.sources.records import skip_bad
from mtfrun.data.sources.tfds_dataset import TfdsDataset


@dataclasses.dataclass(frozen=True)
class TfdsImages(TfdsDataset, ImageSource):
    """The images and labels of a TFDS dataset for classification, of one size or of many.

    A split is the name of a split or TFDS's slice of one (`train[:10%]`). Never downloads.

    Attributes:
      name: `digits`, which is prepared on first use; or any dataset that TFDS has prepared in
        `data_dir`, as `name[/config][:version]`.
      data_dir: TFDS's directory; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      skip_bad_records: the maximum number of images of a split that are left out, with a warning,
        since they cannot be read; for images of many sizes.
    """

    embedded: ClassVar[Mapping[str, EmbeddedDataset]] = {DIGITS.name: DIGITS}

    name: str
    image_feature: str = "image"
    label_feature: str = "label"
    data_dir: str | None = None
    skip_bad_records: int = dataclasses.field(default=0, kw_only=True)

    def __str__(self) -> str:
        return f'TFDS dataset "{self.name}"'

    @property
    def size(self) -> ImageSize:
        feature = self._feature(self.image_feature, tfds.features.Image)
        if feature.np_dtype != np.uint8:
            raise DataError(f"{self}: images of {feature.np_dtype}, not uint8")
        rows, cols, channels = feature.shape
        if rows is None or cols is None:
            return None, None, channels or 3
        return rows, cols, channels

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self._feature(self.label_feature, tfds.features.ClassLabel).names)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.builder.info.splits)

    def examples(self, split: str) -> Iterator[ImageExample]:
        rows, _, channels = self.size
        if rows is None:
            images = check_images(self._image_files(split), channels)
            return skip_bad(images, self, split, self.skip_bad_records)
        return (
            ImageExample(example[self.image_feature].tobytes(), int(example[self.label_feature]))
            for example in self._examples(split)
        )

    def fingerprint(self, split: str) -> object:
        features = [self.image_feature, self.label_feature]
        return self.describe(split, features=features, skip_bad_records=self.skip_bad_records)

    def _image_files(self, split: str) -> Iterator[ImageFile]:
        for number, example in enumerate(self._examples(split)):
            place = f'number {number} of split "{split}" of {self}'
            read = functools.partial(bytes, example[self.image_feature])
            yield ImageFile(place, int(example[self.label_feature]), read)

    def _examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Returns the examples of a split; images of many sizes are not decoded."""
        _ = self.size, self.label_names  # raises if the features do not exist
        encoded = [self.image_feature] if self.size[0] is None else []
        features = [self.image_feature, self.label_feature]
        return self.iterate(self.read(split, features, encoded))

    def _feature(self, name: str, kind: type) -> Any:
        features = self.builder.info.features
        candidates = sorted(key for key, value in features.items() if isinstance(value, kind))
        if name not in candidates:
            raise DataError(lacks(self, f"{kind.__name__} feature", name, candidates))
        return features[name]
