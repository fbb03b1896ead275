"""Pairs of texts for decoder-only models: rows of "inputs end targets end"."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    INPUTS,
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    Feature,
    packed_features,
)
from mtfrun.data.packing import first_fit, segmentation_and_position
from mtfrun.data.pairs_data import PairsData
from mtfrun.data.prompting import AnsweringInRow, Prompting, PromptLimits, ScoredRow, bucket

# Pairs that one call packs. Only in the last of its rows could more pairs be packed.
PAIRS_PER_PACKING = 512


@dataclasses.dataclass(frozen=True)
class DelimitedPairsData(PairsData):
    """Pairs of texts, each a sequence of inputs, end, targets, end.

    Packed pairs do not attend to each other, and positions count from 0 in each, see packing.py.
    These are the rows of a prefix language model (seqio's PrefixLM), and of a causal one that
    answers inputs (Mesh TensorFlow's delimited_lm); the model's `loss_on_targets_only` says whether
    inputs are trained on.

    Inputs and targets are distinguished by counting ends. So a pair is never divided between rows,
    and texts that are too long are truncated before their end, as in SequenceToSequenceData.

    Attributes:
      length: of a row, at least inputs_length + targets_length, which is the default.
      packed: whether a row holds as many pairs as fit. One pair per row makes attention cheaper
        where pairs are about as long as a row.
      source, vocabulary, inputs_length, targets_length, shuffle_buffer: see `PairsData`.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.SequenceToSequenceData()"
    has_rows_of_pairs: ClassVar[bool] = True

    length: int | None = None
    packed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.inputs_length + self.targets_length
        if self.tokens_per_row < longest:
            raise DataError(
                f"DelimitedPairsData: length={self.length} must be at least inputs_length + "
                f"targets_length = {self.inputs_length} + {self.targets_length} = {longest}, for a "
                "pair is not divided between rows"
            )

    @property
    def tokens_per_row(self) -> int:
        """Positions of a row."""
        return self.inputs_length + self.targets_length if self.length is None else self.length

    @property
    def features(self) -> dict[str, Feature]:
        """Targets, which hold the inputs too; if packed, the pair and position of every id."""
        features = packed_features(self.tokens_per_row)
        return features if self.packed else {TARGETS: features[TARGETS]}

    def prompting(self, limits: PromptLimits) -> Prompting:
        """Returns the conversion of prompts to inputs at the beginning of a row."""
        return AnsweringInRow(self._answering(limits))

    def scored_row(self, inputs: bytes, target: bytes, limits: PromptLimits) -> ScoredRow:
        """Returns a pair as a row."""
        ids, truncated = self._ids_of_pair(inputs, target)
        row = np.concatenate([ids[INPUTS], ids[TARGETS]])
        lengths = {TARGETS: bucket(len(row), self.inputs_length + self.targets_length)}
        return ScoredRow({TARGETS: row}, lengths, len(ids[INPUTS]), truncated)

    def _rows(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        pad_id = self.vocabulary.pad_id

        def rows(pairs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            texts = [
                tf.RaggedTensor.from_tensor(pairs[name], padding=pad_id)
                for name in (INPUTS, TARGETS)
            ]
            ids = tf.concat(texts, axis=1)
            if self.packed:
                ids = first_fit(ids, self.tokens_per_row)
            return {TARGETS: ids.to_tensor(pad_id, shape=[None, self.tokens_per_row])}

        return pairs.batch(PAIRS_PER_PACKING).map(rows).unbatch()

    def _features(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        if not self.packed:
            return batches

        def features(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            segmentation, position = segmentation_and_position(
                rows[TARGETS],
                pad_id=self.vocabulary.pad_id,
                end_id=self.vocabulary.end_id,
                ends_of_segment=2,
            )
            return {**rows, TARGETS_SEGMENTATION: segmentation, TARGETS_POSITION: position}

        return batches.map(features)
