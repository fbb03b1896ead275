"""Batches of labelled images, for classifiers."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.builders.reading import reading
from mtfrun.data.data import Data
from mtfrun.data.epochs import ahead, endless, filled, shuffled
from mtfrun.data.errors import DataError
from mtfrun.data.features import Feature

IMAGES, LABELS, WEIGHTS = "images", "labels", "weights"


class ImageSource(Protocol):
    """Labelled images in splits. The order of a split's images is the same every time."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and channels of every image."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""

    def examples(self, split: str) -> tf.data.Dataset:
        """Returns pairs of an image, uint8, and its label, int32, in order, once."""


@dataclasses.dataclass(frozen=True)
class ImageData(Data):
    """Batches of labelled images.

    Attributes:
      source: of the images.
      shuffle_buffer: number of images from which the next one is drawn in training. A checkpoint of
        the iterator holds them.
    """

    source: ImageSource
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        self._check_positive("shuffle_buffer", self.shuffle_buffer)

    @property
    def tokens_per_row(self) -> int:
        """1: progress counts images."""
        return 1

    @property
    def image(self) -> mtf.Shape:
        """The shape {rows, cols, channels} of every image."""
        names = ("rows", "cols", "channels")
        return mtf.Shape(zip(names, self.source.size, strict=True))

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""
        return self.source.label_names

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.label_names)

    @property
    def features(self) -> dict[str, Feature]:
        """Images, their labels and weights."""
        return {
            IMAGES: Feature(self.image, "pixels, uint8, which the model normalises on the devices"),
            LABELS: Feature(mtf.Shape(), "the number of the class"),
            WEIGHTS: Feature(mtf.Shape(), "1, and 0 for padding"),
        }

    @property
    def origin(self) -> ImageSource:
        """The source."""
        return self.source

    def model_arguments(self) -> dict[str, object]:
        """Returns the number of classes and the shape of every image."""
        return {"num_classes": self.num_classes, "image": self.image}

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches, see `Data.train`."""
        examples = self._examples(batch, split)

        def epoch(epoch_seed: tf.Tensor) -> tf.data.Dataset:
            return shuffled(examples, self.shuffle_buffer, epoch_seed)

        batches = endless(epoch, seed=seed).batch(batch, drop_remainder=True)
        return ahead(batches.map(_features))

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every image of `split` once, in order. Images of weight 0 fill up the batch."""
        batches = self._examples(batch, split).batch(batch).map(_features)
        return ahead(filled(batches, batch))

    def _examples(self, batch: int, split: str) -> tf.data.Dataset:
        self._check_positive("batch", batch)
        examples = self.source.examples(split)
        with reading(self.source):
            for _ in examples.take(1):
                return examples
        raise DataError(f'split "{split}" of {self.source} holds no images; choose another')


def _features(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    return {IMAGES: images, LABELS: labels, WEIGHTS: tf.ones_like(labels)}
