"""Batches for training and evaluating a classifier of images."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.reading import reading

IMAGES, LABELS, WEIGHTS = "images", "labels", "weights"
# Batches made ahead. The iterator's state, saved with a checkpoint, includes them.
PREFETCHED_BATCHES = 2


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
class ImageData:
    """Labelled images, in batches.

    A batch has `images` [batch, rows, cols, channels] uint8, which the model normalises on the
    devices, `labels` [batch] int32 and `weights` [batch] int32: 0 for what fills up a batch.

    shuffle_buffer: images among which the next one is drawn in training. A checkpoint of the
        iterator holds them.
    """

    source: ImageSource
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        if self.shuffle_buffer < 1:
            raise DataError(
                f"ImageData: shuffle_buffer must be positive, not {self.shuffle_buffer}"
            )

    @property
    def tokens_per_row(self) -> int:
        """1: what a step's progress counts is images."""
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

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape of every feature of a batch."""
        row = mtf.Shape([mtf.Dimension("batch", batch)])
        return {IMAGES: row + self.image, LABELS: row, WEIGHTS: row}

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches. `seed` fixes the order, which differs in every epoch.

        An iterator over it, saved in a tf.train.Checkpoint and restored into an iterator over an
        equal dataset, goes on with the same batches, buffers included.
        """
        examples = self._examples(batch, split)
        first_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            return examples.shuffle(
                self.shuffle_buffer, seed=first_seed + number, reshuffle_each_iteration=False
            )

        # As in LanguageModelData: the order is a function of (seed, epoch), which a checkpoint
        # keeps at any place.
        dataset = tf.data.Dataset.counter().flat_map(epoch).batch(batch, drop_remainder=True)
        options = tf.data.Options()
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return dataset.map(_features).prefetch(PREFETCHED_BATCHES).with_options(options)

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every image of `split` once, in order. Weight 0 fills up the last batch."""

        def filled(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            missing = batch - tf.shape(features[LABELS])[0]
            return {
                name: tf.ensure_shape(
                    tf.pad(value, [[0, missing], *[[0, 0]] * (value.shape.rank - 1)]),
                    [batch, *value.shape[1:]],
                )
                for name, value in features.items()
            }

        dataset = self._examples(batch, split).batch(batch).map(_features).map(filled)
        return dataset.prefetch(PREFETCHED_BATCHES)

    def _examples(self, batch: int, split: str) -> tf.data.Dataset:
        if batch < 1:
            raise DataError(f"ImageData: batch must be at least 1, not {batch}")
        examples = self.source.examples(split)
        with reading(self.source):
            for _ in examples.take(1):
                return examples
        raise DataError(f'split "{split}" of {self.source} holds no images; choose another')


def _features(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    return {IMAGES: images, LABELS: labels, WEIGHTS: tf.ones_like(labels)}
