"""Base class of data of pairs of texts: their ids, their order, and their batches."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from mtfrun.data.data import TextData
from mtfrun.data.epochs import ahead, endless, filled, shuffled
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.pairs import PairSource
from mtfrun.data.prompting import Answering, PromptLimits, with_end
from mtfrun.data.reading import reading
from mtfrun.data.vocabularies import Vocabulary

# Pairs that one call tokenises, to amortise tf.data's cost per element.
PAIRS_PER_CALL = 128


@dataclasses.dataclass(frozen=True)
class PairsData(TextData):
    """Pairs of texts as ids; subclasses define the rows that are made of them.

    Every text ends with the end id. Texts that exceed `inputs_length` or `targets_length` are
    truncated before it.

    Attributes:
      source: of the pairs.
      vocabulary: text to ids and back.
      inputs_length, targets_length: maximum number of ids of a text, including the end.
      shuffle_buffer: number of pairs from which the next one is drawn in training. A checkpoint of
        the iterator holds them, 4 * (inputs_length + targets_length) bytes each.
    """

    has_pairs: ClassVar[bool] = True

    source: PairSource
    vocabulary: Vocabulary
    inputs_length: int
    targets_length: int
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        for name in ("inputs_length", "targets_length", "shuffle_buffer"):
            self._check_positive(name, getattr(self, name))

    @property
    def origin(self) -> PairSource:
        """The source."""
        return self.source

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches, see `Data.train`."""
        texts = self._texts(batch, split)

        def epoch_pairs(epoch_seed: tf.Tensor) -> tf.data.Dataset:
            return shuffled(self._encoded(texts), self.shuffle_buffer, epoch_seed)

        rows = self._rows(endless(epoch_pairs, seed=seed))
        return ahead(self._features(rows.batch(batch, drop_remainder=True)))

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every pair of `split` once. Rows of padding fill up the last batch."""
        rows = self._rows(self._encoded(self._texts(batch, split)))
        return ahead(self._features(filled(rows.batch(batch), batch, self.vocabulary.pad_id)))

    def pairs(self, split: str, count: int) -> list[tuple[bytes, bytes]]:
        """Returns the first pairs of inputs and targets of a split, at most `count`."""
        with reading(self.source):
            first = list(self.source.pairs(split).take(count).as_numpy_iterator())
        return [(pair[INPUTS], pair[TARGETS]) for pair in first]

    def _answering(self, limits: PromptLimits) -> Answering:
        return Answering(self.vocabulary, self.inputs_length, self.targets_length, limits)

    def _ids_of_pair(self, inputs: bytes, target: bytes) -> tuple[dict[str, np.ndarray], int]:
        """Returns the ids of each text with its end, and the number of truncated tokens."""
        texts = {INPUTS: self.vocabulary.encode(inputs), TARGETS: self.vocabulary.encode(target)}
        longest = {INPUTS: self.inputs_length, TARGETS: self.targets_length}
        ids = {name: with_end(self.vocabulary, texts[name], longest[name]) for name in texts}
        return ids, sum(len(texts[name]) + 1 - len(ids[name]) for name in texts)

    def _rows(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the rows that hold the pairs of padded ids, in order."""
        return pairs

    def _features(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Returns batches of rows with the features that are computed from the others."""
        return batches

    def _encoded(self, texts: tf.data.Dataset) -> tf.data.Dataset:
        lengths = {INPUTS: self.inputs_length, TARGETS: self.targets_length}

        def padded(strings: tf.Tensor, length: int) -> tf.Tensor:
            """Returns the ids [strings, length], with ends."""
            ids = self.vocabulary.encode_documents(strings)[:, : length - 1]
            ends = tf.fill([ids.nrows(), 1], self.vocabulary.end_id)
            ended = tf.concat([ids, ends], axis=1)
            return ended.to_tensor(self.vocabulary.pad_id, shape=[None, length])

        def encoded(pairs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {name: padded(pairs[name], length) for name, length in lengths.items()}

        return texts.batch(PAIRS_PER_CALL).map(encoded).unbatch()

    def _texts(self, batch: int, split: str) -> tf.data.Dataset:
        """Returns the pairs of a split.

        Raises:
          DataError: there is no pair; training would never get its first batch.
        """
        self._check_positive("batch", batch)
        pairs = self.source.pairs(split)
        with reading(self.source):
            for _ in pairs.take(1):
                return pairs
        raise DataError(
            f'split "{split}" of {self.source} holds no pair; choose another source or split'
        )
