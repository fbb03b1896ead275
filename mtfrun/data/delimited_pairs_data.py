"""Pairs of texts for decoder-only models: rows of "inputs end targets end"."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, Feature, packed_features
from mtfrun.data.pairs_data import PairsData
from mtfrun.data.prompting import AnsweringInRow, Prompting, PromptLimits
from mtfrun.data.rows import Batch, Rows
from mtfrun.data.task import Task
from mtfrun.data.text_rows import batches_by_length


@dataclasses.dataclass(frozen=True)
class DelimitedPairsData(PairsData):
    """Pairs of texts, each a sequence of inputs, end, targets, end.

    Packed pairs do not attend to each other, and positions count from 0 in each.
    These are the rows of a prefix language model (seqio's PrefixLM), and of a causal one that
    answers inputs (Mesh TensorFlow's delimited_lm); the model's `loss_on_targets_only` says whether
    inputs are trained on.

    Inputs and targets are distinguished by counting ends. So a pair is never divided between rows,
    and texts that are too long are truncated before their end, as in SequenceToSequenceData.

    Attributes:
      length: of a row, at least inputs_length + targets_length, which is the default.
      task, inputs_length, targets_length, packed: see `PairsData`. One pair per row makes attention
        cheaper where pairs are about as long as a row.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.SequenceToSequenceData()"
    has_rows_of_pairs: ClassVar[bool] = True

    length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.inputs_length + self.targets_length
        if self.tokens_per_row < longest:
            raise DataError(
                f"DelimitedPairsData: length={self.length} must be at least inputs_length + "
                f"targets_length = {self.inputs_length} + {self.targets_length} = {longest}, for a "
                "pair is not divided between rows"
            )

        inputs, targets = (self.task.vocabulary_of(name) for name in (INPUTS, TARGETS))
        if inputs.fingerprint != targets.fingerprint:
            raise DataError(
                f"DelimitedPairsData: inputs and targets share a row and so a vocabulary, and the "
                f"task has {inputs} and {targets}: give it one, or use "
                "@data.SequenceToSequenceData()"
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

    def _rows(self, task: Task, split: str) -> Rows:
        joined = self.tokens_per_row
        if self.packed:
            return self._packed_rows(task, split, joined)
        return self._padded_rows(task, split, joined)

    def _rows_of_evaluation(
        self, task: Task, batch: int, split: str, max_rows: int | None
    ) -> Iterator[Batch]:
        rows = self._padded_rows(task, split, self.tokens_per_row)
        return batches_by_length(rows, batch, max_rows)
