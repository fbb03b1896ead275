"""Batches for decoder-only models on pairs of texts: rows of "inputs end targets end"."""

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

# Pairs that are packed together. Only the last row that they make has room that others could fill.
PAIRS_PER_PACKING = 512


@dataclasses.dataclass(frozen=True)
class DelimitedPairsData(PairsData):
    """A source of pairs, each written one after the other: inputs, end, targets, end.

    Where pairs are packed, they do not see each other, and positions count from 0 in each, see
    packing.py. These are the rows of a prefix language model
    (seqio's PrefixLM), and of a causal one that answers inputs (Mesh TensorFlow's delimited_lm);
    whether inputs are trained on is the model's `loss_on_targets_only`.

    A pair is whole, for inputs and targets are told apart by counting ends: what is too long is
    cut before its end, as in SequenceToSequenceData, and a pair is never divided between rows.

    length: of a row, at least inputs_length + targets_length, which is the default.
    packed: put as many pairs into a row as it holds. Otherwise one, and attention costs less where
        pairs are about as long as a row.
    others: see `PairsData`.
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
        """Targets, which hold the inputs too; where packed, the pair and the position of each."""
        features = packed_features(self.tokens_per_row)
        return features if self.packed else {TARGETS: features[TARGETS]}

    def prompting(self, limits: PromptLimits) -> Prompting:
        """Returns how prompts become inputs at the beginning of a row."""
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
                tf.RaggedTensor.from_tensor(pairs[x], padding=pad_id) for x in (INPUTS, TARGETS)
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
