"""Batches for training and evaluating a model that makes a sequence from a sequence."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.data.features import sequence_to_sequence_shapes
from mtfrun.data.pairs_data import PairsData


@dataclasses.dataclass(frozen=True)
class SequenceToSequenceData(PairsData):
    """A source of pairs, one pair a row.

    Batches are dicts of int32 `inputs` [batch, inputs_length] and `targets` [batch,
    targets_length]; each text is closed by the end id and padded with the pad id, whose targets
    have no loss. A longer text is cut, so that the end id is the row's last.

    Fields: see `PairsData`.
    """

    @property
    def tokens_per_row(self) -> int:
        """Positions of inputs and targets together."""
        return self.inputs_length + self.targets_length

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape of every feature of a batch."""
        return sequence_to_sequence_shapes(batch, self.inputs_length, self.targets_length)
