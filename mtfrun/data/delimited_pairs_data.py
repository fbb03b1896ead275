"""Batches for decoder-only models on pairs of texts: rows of "inputs end targets end"."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    INPUTS,
    TARGETS,
    TARGETS_POSITION,
    TARGETS_SEGMENTATION,
    language_model_shapes,
)
from mtfrun.data.packing import first_fit, segmentation_and_position
from mtfrun.data.pairs_data import PairsData

# Pairs that are packed together. Only the last row that they make has room that others could fill.
PAIRS_PER_PACKING = 512


@dataclasses.dataclass(frozen=True)
class DelimitedPairsData(PairsData):
    """A source of pairs, each written one after the other: inputs, end, targets, end.

    Batches are dicts of int32 [batch, length]: `targets`, padded with the pad id. Where pairs are
    packed, also `targets_segmentation` and `targets_position`, see packing.py: pairs do not see
    each other, and positions count from 0 in each. These are the rows of a prefix language model
    (seqio's PrefixLM), and of a causal one that answers inputs (Mesh TensorFlow's delimited_lm);
    whether inputs are trained on is the model's `loss_on_targets_only`.

    A pair is whole, for inputs and targets are told apart by counting ends: what is too long is
    cut before its end, as in SequenceToSequenceData, and a pair is never divided between rows.

    length: of a row, at least inputs_length + targets_length, which is the default.
    packed: put as many pairs into a row as it holds. Otherwise one, and attention costs less where
        pairs are about as long as a row.
    others: see `PairsData`.
    """

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

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape of every feature of a batch."""
        shapes = language_model_shapes(batch, self.tokens_per_row)
        return shapes if self.packed else {TARGETS: shapes[TARGETS]}

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
