"""Batches for training and evaluating a model that makes a sequence from a sequence."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, sequence_to_sequence_shapes
from mtfrun.data.pairs import PairSource
from mtfrun.data.vocabulary import Vocabulary

# Pairs tokenised by one call, which makes tf.data's cost per element small.
PAIRS_PER_CALL = 128
# Batches made ahead. The iterator's state, saved with a checkpoint, includes them.
PREFETCHED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class SequenceToSequenceData:
    """A source of pairs, one pair a row.

    Batches are dicts of int32 `inputs` [batch, inputs_length] and `targets` [batch,
    targets_length]; each text is closed by the end id and padded with the pad id, whose targets
    have no loss. A longer text is cut, so that the end id is the row's last.

    shuffle_buffer: pairs among which the next one is drawn in training. A checkpoint of the
        iterator holds them, 4 * (inputs_length + targets_length) bytes each.
    """

    source: PairSource
    vocabulary: Vocabulary
    inputs_length: int
    targets_length: int
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        for name in ("inputs_length", "targets_length", "shuffle_buffer"):
            _check_positive(name, getattr(self, name))

    @property
    def tokens_per_row(self) -> int:
        """Positions of inputs and targets together."""
        return self.inputs_length + self.targets_length

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape of every feature of a batch."""
        return sequence_to_sequence_shapes(batch, self.inputs_length, self.targets_length)

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches. `seed` fixes the order, which differs in every epoch.

        An iterator over it, saved in a tf.train.Checkpoint and restored into an iterator over an
        equal dataset, goes on with the same batches, buffers included.
        """
        _check_positive("batch", batch)
        pairs = self._pairs(split)
        first_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

        def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
            shuffled = functools.partial(tf.data.Dataset.shuffle, reshuffle_each_iteration=False)
            return shuffled(self._rows(pairs), self.shuffle_buffer, seed=first_seed + epoch)

        # The order is a function of (seed, epoch), as in LanguageModelData.train.
        rows = tf.data.Dataset.counter().flat_map(epoch_rows)
        options = tf.data.Options()
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        batches = rows.batch(batch, drop_remainder=True).prefetch(PREFETCHED_BATCHES)
        return batches.with_options(options)

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every pair of `split` once, in order. Rows of padding fill up the last batch."""
        _check_positive("batch", batch)

        def filled(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            missing = batch - tf.shape(rows[TARGETS])[0]
            return {
                name: tf.ensure_shape(
                    tf.pad(ids, [[0, missing], [0, 0]], constant_values=self.vocabulary.pad_id),
                    [batch, ids.shape[1]],
                )
                for name, ids in rows.items()
            }

        rows = self._rows(self._pairs(split)).batch(batch).map(filled)
        return rows.prefetch(PREFETCHED_BATCHES)

    def _rows(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        lengths = {INPUTS: self.inputs_length, TARGETS: self.targets_length}

        def encoded(texts: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {name: self._padded(texts[name], length) for name, length in lengths.items()}

        return pairs.batch(PAIRS_PER_CALL).map(encoded).unbatch()

    def _padded(self, texts: tf.Tensor, length: int) -> tf.Tensor:
        """Returns the ids [texts, length] of strings [texts]."""
        ids = self.vocabulary.encode_documents(texts)[:, : length - 1]
        ends = tf.fill([ids.nrows(), 1], self.vocabulary.end_id)
        closed = tf.concat([ids, ends], axis=1)
        return closed.to_tensor(self.vocabulary.pad_id, shape=[None, length])

    def _pairs(self, split: str) -> tf.data.Dataset:
        """Raises DataError if there is no pair; training would wait for one for ever."""
        pairs = self.source.pairs(split)
        for _ in pairs.take(1):
            return pairs
        raise DataError(
            f'split "{split}" of {self.source} holds no pair; choose another source or split'
        )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise DataError(f"SequenceToSequenceData: {name} must be at least 1, not {value}")
