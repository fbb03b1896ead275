"""What all data made of pairs of texts share: their ids, their order, and batches of them."""

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
from mtfrun.data.vocabulary import Vocabulary

# Pairs tokenised by one call, which makes tf.data's cost per element small.
PAIRS_PER_CALL = 128


@dataclasses.dataclass(frozen=True)
class PairsData(TextData):
    """A source of pairs, as ids. Its subclasses say how rows are made of them.

    Each text is closed by the end id. A longer text than `inputs_length` or `targets_length` is
    cut, so that the end id is its last.

    inputs_length, targets_length: ids of a text at most, the end included.
    shuffle_buffer: pairs among which the next one is drawn in training. A checkpoint of the
        iterator holds them, 4 * (inputs_length + targets_length) bytes each.
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
        """Returns the ids of each text with its end, and the number of tokens that have no room."""
        texts = {INPUTS: self.vocabulary.encode(inputs), TARGETS: self.vocabulary.encode(target)}
        longest = {INPUTS: self.inputs_length, TARGETS: self.targets_length}
        ids = {name: with_end(self.vocabulary, texts[name], longest[name]) for name in texts}
        return ids, sum(len(texts[name]) + 1 - len(ids[name]) for name in texts)

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

    def _texts(self, batch: int, split: str) -> tf.data.Dataset:
        """Raises DataError if there is no pair; training would wait for one for ever."""
        self._check_positive("batch", batch)
        pairs = self.source.pairs(split)
        with reading(self.source):
            for _ in pairs.take(1):
                return pairs
        raise DataError(
            f'split "{split}" of {self.source} holds no pair; choose another source or split'
        )
