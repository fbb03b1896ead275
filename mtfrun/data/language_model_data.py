"""Batches of text for language models."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from mtfrun.data.data import TextData
from mtfrun.data.epochs import ahead, endless, filled, shuffled
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    Feature,
    packed_features,
)
from mtfrun.data.packing import pack, segmentation_and_position
from mtfrun.data.reading import reading
from mtfrun.data.sources import TextSource, read_bytes
from mtfrun.data.vocabularies import Vocabulary

# Documents that are shuffled before packing, so that every epoch divides them at other places.
SHUFFLED_DOCUMENTS = 64


@dataclasses.dataclass(frozen=True)
class LanguageModelData(TextData):
    """A source of text, packed into rows of `length` tokens, see packing.py.

    Targets that are padding have no loss. Prompts are continued.

    Attributes:
      source: of the documents.
      vocabulary: text to ids and back.
      length: tokens of a row.
      shuffle_buffer: number of rows from which the next one is drawn in training. A checkpoint of
        the iterator holds them, 4 * length bytes each.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.SequenceToSequenceData()"
    has_text: ClassVar[bool] = True

    source: TextSource
    vocabulary: Vocabulary
    length: int
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        for name in ("length", "shuffle_buffer"):
            self._check_positive(name, getattr(self, name))

    @property
    def features(self) -> dict[str, Feature]:
        """Targets, and the document and the position in it of every target."""
        return packed_features(self.length)

    @property
    def tokens_per_row(self) -> int:
        """Positions of a row."""
        return self.length

    @property
    def origin(self) -> TextSource:
        """The source."""
        return self.source

    def train(self, batch: int, *, seed: int, split: str = "train") -> tf.data.Dataset:
        """Returns endless shuffled batches, see `Data.train`."""
        documents = self._documents(batch, split)

        def epoch_rows(epoch_seed: tf.Tensor) -> tf.data.Dataset:
            ordered = shuffled(documents, SHUFFLED_DOCUMENTS, epoch_seed)
            rows = pack(ordered, self.vocabulary, self.length)
            return shuffled(rows, self.shuffle_buffer, epoch_seed + 1)

        rows = endless(epoch_rows, seed=seed, seeds_per_epoch=2)
        return ahead(rows.batch(batch, drop_remainder=True).map(self._features))

    def evaluation(self, batch: int, *, split: str = "validation") -> tf.data.Dataset:
        """Returns every row of `split` once, in order. Rows of padding fill up the last batch."""
        rows = pack(self._documents(batch, split), self.vocabulary, self.length)
        batches = filled(rows.batch(batch), batch, self.vocabulary.pad_id)
        return ahead(batches.map(self._features))

    def text(self, split: str) -> bytes:
        """Returns all text of a split, one document after the other."""
        return read_bytes(self.source, split)

    def _features(self, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        segmentation, position = segmentation_and_position(
            targets, pad_id=self.vocabulary.pad_id, end_id=self.vocabulary.end_id
        )
        return {TARGETS: targets, TARGETS_SEGMENTATION: segmentation, TARGETS_POSITION: position}

    def _documents(self, batch: int, split: str) -> tf.data.Dataset:
        """Returns the documents of a split.

        Raises:
          DataError: there is no text; training would never get its first batch.
        """
        self._check_positive("batch", batch)
        documents = self.source.documents(split)
        with reading(self.source):
            for _ in documents.filter(lambda document: tf.strings.length(document) > 0).take(1):
                return documents
        raise DataError(
            f'split "{split}" of {self.source} holds no text; choose another source or split'
        )
