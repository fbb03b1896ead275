"""Batches for training and evaluating a language model on a source of text."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    language_model_shapes,
)
from mtfrun.data.packing import pack, segmentation_and_position
from mtfrun.data.reading import reading
from mtfrun.data.sources import TextSource
from mtfrun.data.vocabulary import Vocabulary

# Documents whose order is shuffled before they are packed, so that each epoch cuts them elsewhere.
SHUFFLED_DOCUMENTS = 64
# Batches made ahead. The iterator's state, saved with a checkpoint, includes them.
PREFETCHED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class LanguageModelData:
    """A text source cut into rows of `length` tokens.

    Batches are dicts of int32 [batch, length] tensors: `targets`, `targets_segmentation` and
    `targets_position` (see packing.py). The loss weighs a target 0 where it is the pad id.

    shuffle_buffer: rows among which the next one is drawn in training. A checkpoint of the iterator
        holds them, 4 * length bytes each.
    """

    source: TextSource
    vocabulary: Vocabulary
    length: int
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        for name in ("length", "shuffle_buffer"):
            _check_positive(name, getattr(self, name))

    @property
    def tokens_per_row(self) -> int:
        """Positions of a row."""
        return self.length

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape of every feature of a batch."""
        return language_model_shapes(batch, self.length)

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches. `seed` fixes the order, which differs in every epoch.

        TensorFlow mixes the seed of tf.random.set_seed, if a program sets one, into every shuffle.

        An iterator over it, saved in a tf.train.Checkpoint and restored into an iterator over an
        equal dataset, goes on with the same batches, buffers included.
        """
        _check_positive("batch", batch)
        documents = self.source.documents(split)
        self._check_not_empty(documents, split)
        first_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

        def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
            shuffled = functools.partial(tf.data.Dataset.shuffle, reshuffle_each_iteration=False)
            epoch_seed = first_seed + 2 * epoch
            ordered = shuffled(documents, SHUFFLED_DOCUMENTS, seed=epoch_seed)
            rows = pack(ordered, self.vocabulary, self.length)
            return shuffled(rows, self.shuffle_buffer, seed=epoch_seed + 1)

        # The order is a function of (seed, epoch). With shuffle(...).repeat() instead, a checkpoint
        # taken when `batch` has just seen the end of the documents loses the next epoch's seed (TF
        # 2.21).
        rows = tf.data.Dataset.counter().flat_map(epoch_rows)
        options = tf.data.Options()
        # Saving refuses "external" state. What it finds here is the placeholder of a seed generator
        # that a shuffle without reshuffling never asks.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return self._features(rows.batch(batch, drop_remainder=True)).with_options(options)

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every row of `split` once, in order. Rows of padding fill up the last batch."""
        _check_positive("batch", batch)
        documents = self.source.documents(split)
        self._check_not_empty(documents, split)
        pad_id = self.vocabulary.pad_id

        def filled(rows: tf.Tensor) -> tf.Tensor:
            missing = batch - tf.shape(rows)[0]
            rows = tf.pad(rows, [[0, missing], [0, 0]], constant_values=pad_id)
            return tf.ensure_shape(rows, [batch, self.length])

        rows = pack(documents, self.vocabulary, self.length)
        return self._features(rows.batch(batch).map(filled))

    def _features(self, targets: tf.data.Dataset) -> tf.data.Dataset:
        def features(targets: tf.Tensor) -> dict[str, tf.Tensor]:
            segmentation, position = segmentation_and_position(
                targets, pad_id=self.vocabulary.pad_id, end_id=self.vocabulary.end_id
            )
            return {
                TARGETS: targets,
                TARGETS_SEGMENTATION: segmentation,
                TARGETS_POSITION: position,
            }

        return targets.map(features).prefetch(PREFETCHED_BATCHES)

    def _check_not_empty(self, documents: tf.data.Dataset, split: str) -> None:
        """Raises DataError if there is no text; training would wait for a first batch for ever."""
        with reading(self.source):
            for _ in documents.filter(lambda document: tf.strings.length(document) > 0).take(1):
                return
        raise DataError(
            f'split "{split}" of {self.source} holds no text; choose another source or split'
        )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise DataError(f"LanguageModelData: {name} must be at least 1, not {value}")
