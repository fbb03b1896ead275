"""What all data made of pairs of texts share: their ids, their order, and batches of them."""

from __future__ import annotations

import abc
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.pairs import PairSource
from mtfrun.data.reading import reading
from mtfrun.data.vocabulary import Vocabulary

# Pairs tokenised by one call, which makes tf.data's cost per element small.
PAIRS_PER_CALL = 128
# Batches made ahead. The iterator's state, saved with a checkpoint, includes them.
PREFETCHED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class PairsData(abc.ABC):
    """A source of pairs, as ids. Its subclasses say how rows are made of them.

    Each text is closed by the end id. A longer text than `inputs_length` or `targets_length` is
    cut, so that the end id is its last.

    inputs_length, targets_length: ids of a text at most, the end included.
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
            self._check_positive(name, getattr(self, name))

    @property
    @abc.abstractmethod
    def tokens_per_row(self) -> int:
        """Positions of a row, over all of its features."""

    @abc.abstractmethod
    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape of every feature of a batch."""

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches. `seed` fixes the order, which differs in every epoch.

        An iterator over it, saved in a tf.train.Checkpoint and restored into an iterator over an
        equal dataset, goes on with the same batches, buffers included.
        """
        self._check_positive("batch", batch)
        texts = self._texts(split)
        first_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

        def epoch_pairs(epoch: tf.Tensor) -> tf.data.Dataset:
            shuffled = functools.partial(tf.data.Dataset.shuffle, reshuffle_each_iteration=False)
            return shuffled(self._encoded(texts), self.shuffle_buffer, seed=first_seed + epoch)

        # The order is a function of (seed, epoch), as in LanguageModelData.train.
        rows = self._rows(tf.data.Dataset.counter().flat_map(epoch_pairs))
        options = tf.data.Options()
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        batches = self._features(rows.batch(batch, drop_remainder=True))
        return batches.prefetch(PREFETCHED_BATCHES).with_options(options)

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every pair of `split` once. Rows of padding fill up the last batch."""
        self._check_positive("batch", batch)

        def filled(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            missing = batch - tf.shape(rows[TARGETS])[0]
            return {
                name: tf.ensure_shape(
                    tf.pad(ids, [[0, missing], [0, 0]], constant_values=self.vocabulary.pad_id),
                    [batch, ids.shape[1]],
                )
                for name, ids in rows.items()
            }

        rows = self._rows(self._encoded(self._texts(split)))
        return self._features(rows.batch(batch).map(filled)).prefetch(PREFETCHED_BATCHES)

    def _rows(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the rows of pairs of padded ids, in order."""
        return pairs

    def _features(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Returns batches of rows with the features that follow from the others."""
        return batches

    def _encoded(self, texts: tf.data.Dataset) -> tf.data.Dataset:
        lengths = {INPUTS: self.inputs_length, TARGETS: self.targets_length}

        def encoded(pairs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {name: self._padded(pairs[name], length) for name, length in lengths.items()}

        return texts.batch(PAIRS_PER_CALL).map(encoded).unbatch()

    def _padded(self, texts: tf.Tensor, length: int) -> tf.Tensor:
        """Returns the ids [texts, length] of strings [texts]."""
        ids = self.vocabulary.encode_documents(texts)[:, : length - 1]
        ends = tf.fill([ids.nrows(), 1], self.vocabulary.end_id)
        closed = tf.concat([ids, ends], axis=1)
        return closed.to_tensor(self.vocabulary.pad_id, shape=[None, length])

    def _texts(self, split: str) -> tf.data.Dataset:
        """Raises DataError if there is no pair; training would wait for one for ever."""
        pairs = self.source.pairs(split)
        with reading(self.source):
            for _ in pairs.take(1):
                return pairs
        raise DataError(
            f'split "{split}" of {self.source} holds no pair; choose another source or split'
        )

    def _check_positive(self, name: str, value: int) -> None:
        if value < 1:
            raise DataError(f"{type(self).__name__}: {name} must be at least 1, not {value}")
