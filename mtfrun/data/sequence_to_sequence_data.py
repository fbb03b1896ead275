"""Pairs of texts for encoder-decoder models: inputs and targets as separate features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from mtfrun.data.features import INPUTS, TARGETS, Feature, ids_feature, packed_features
from mtfrun.data.pairs_data import PairsData
from mtfrun.data.prompting import Prompting, PromptLimits
from mtfrun.data.rows import Batch, Rows
from mtfrun.data.task import Task
from mtfrun.data.text_rows import batches_by_length


@dataclasses.dataclass(frozen=True)
class SequenceToSequenceData(PairsData):
    """Pairs of texts, inputs and targets in rows of their own.

    Every text ends with the end id and is padded; targets that are padding have no loss. Packed
    rows hold as many pairs as fit into both (Raffel et al. 2020, https://arxiv.org/abs/1910.10683,
    section 2.1). An evaluation has one pair per row, and batches of rows of similar length.

    Attributes:
      inputs_length, targets_length: of a row, and so of the longest text, including the end.
      packed: whether a row holds as many pairs as fit.
      task: of the pairs.
    """

    remedy: ClassVar[str] = (
        "add --gin_file=data/delimited_pairs.gin behind the file of the pairs, which puts both in "
        "one row"
    )

    @property
    def features(self) -> dict[str, Feature]:
        """Inputs and targets; if packed, the pair and position of every id."""
        if self.packed:
            return {
                **packed_features(self.inputs_length, INPUTS),
                **packed_features(self.targets_length, TARGETS),
            }
        return {
            INPUTS: ids_feature(self.inputs_length, "ids, 0 for padding"),
            TARGETS: ids_feature(self.targets_length, "ids, 0 for padding, which has no loss"),
        }

    @property
    def tokens_per_row(self) -> int:
        """Positions of inputs and targets together."""
        return self.inputs_length + self.targets_length

    def model_arguments(self) -> dict[str, object]:
        """Returns the sizes of the vocabularies; that of the inputs only if it is another one."""
        inputs, targets = (self.task.vocabulary_of(name) for name in (INPUTS, TARGETS))
        if inputs.fingerprint == targets.fingerprint:
            return super().model_arguments()
        return {**super().model_arguments(), "inputs_vocabulary_size": inputs.size}

    def prompting(self, limits: PromptLimits) -> Prompting:
        """Returns the conversion of prompts to inputs."""
        return self._answering(limits)

    def _rows(self, task: Task, split: str) -> Rows:
        return self._packed_rows(task, split) if self.packed else self._padded_rows(task, split)

    def _rows_of_evaluation(
        self, task: Task, batch: int, split: str, max_rows: int | None
    ) -> Iterator[Batch]:
        return batches_by_length(self._padded_rows(task, split), batch, max_rows)
