"""Labelled images of TFDS datasets: the embedded ones, and those prepared on this machine."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mtfrun.data.builders import Digits
from mtfrun.data.builders.prepare import resolve_data_dir
from mtfrun.data.builders.prepared_files import PreparedFiles
from mtfrun.data.builders.reading import PreparedSource
from mtfrun.data.builders.tfds_builder import prepared_files, read_split, tfds_builder
from mtfrun.data.errors import DataError
from mtfrun.errors import did_you_mean

EMBEDDED_IMAGES = {builder.name: builder for builder in (Digits,)}


@dataclasses.dataclass(frozen=True)
class TfdsImages(PreparedSource):
    """An ImageSource of the images and labels of a TFDS dataset for classification.

    A split is the name of a split or TFDS's slice of one (`train[:10%]`). Nothing is ever
    downloaded.

    Attributes:
      name: `digits`, which is prepared on first use; or the name of any dataset that TFDS has
        prepared in `data_dir`, in TFDS's form `name[/config][:version]`.
      image_feature, label_feature: the features; all images must have one size.
      data_dir: by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """

    name: str
    image_feature: str = "image"
    label_feature: str = "label"
    data_dir: str | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and channels of every image."""
        feature = self._feature(self.image_feature, tfds.features.Image)
        if feature.np_dtype != np.uint8:
            raise DataError(f'TFDS dataset "{self.name}": images of {feature.np_dtype}, not uint8')
        if None in feature.shape:
            raise DataError(
                f'TFDS dataset "{self.name}" has images of different sizes, {feature.shape}: '
                "choose one whose images have one size"
            )
        rows, columns, channels = feature.shape
        return rows, columns, channels

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""
        return tuple(self._feature(self.label_feature, tfds.features.ClassLabel).names)

    def examples(self, split: str) -> tf.data.Dataset:
        """Returns pairs of an image, uint8, and its label, int32, in order, once."""
        _ = self.size, self.label_names  # raises if the features do not exist
        features = [self.image_feature, self.label_feature]
        dataset = read_split(self._builder, self.name, split, features)
        return dataset.map(
            lambda example: (
                example[self.image_feature],
                tf.cast(example[self.label_feature], tf.int32),
            )
        )

    def files(self) -> PreparedFiles:
        """Returns the location of the dataset's files."""
        return prepared_files(self.name, resolve_data_dir(self.data_dir), EMBEDDED_IMAGES)

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds_builder(self.name, self.data_dir, EMBEDDED_IMAGES)

    def _feature(self, name: str, kind: type) -> Any:
        features = self._builder.info.features
        candidates = sorted(key for key, value in features.items() if isinstance(value, kind))
        if name not in candidates:
            raise DataError(
                f'TFDS dataset "{self.name}" has no {kind.__name__} feature "{name}"; it has '
                f"{', '.join(candidates) or 'none'}{did_you_mean(name, candidates)}"
            )
        return features[name]
