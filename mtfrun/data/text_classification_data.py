"""Batches of labelled texts, for encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun.checks import Range, check_fields
from mtfrun.data.features import INPUTS, TARGETS, Feature, ids_feature
from mtfrun.data.prompts import PromptFormat, PromptLimits, ScoredRow, bucket, ends
from mtfrun.data.rows import Batch, Rows, Selection
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.text_rows import PaddedRows
from mtfrun.data.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True)
class TextClassificationData(TaskData):
    """Texts as inputs, and their labels as the target of the first position.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3: an encoder predicts the class
    of a text where the text begins; no other position has a loss. Longer texts are truncated before
    their end. The vocabulary of the task's targets is a `LabelVocabulary`. The softmax is over all
    ids of the model, of which the first ones are labels, so that the weights of a masked language
    model fit. A beam search returns several labels, best first.

    Attributes:
      length: ids of a row, the end included.
      task: of pairs: the inputs are texts, the targets labels.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = (INPUTS, TARGETS)

    length: int

    def __post_init__(self) -> None:
        check_fields(self, Range(2, whole=True), "length")

    @property
    def features(self) -> dict[str, Feature]:
        return {
            INPUTS: ids_feature(self.length, "ids and the end, then 0 for padding"),
            TARGETS: ids_feature(self.length, "the id of the label, then 0, which has no loss"),
        }

    @property
    def tokens_per_row(self) -> int:
        return self.length

    @property
    def text_limits(self) -> Mapping[str, int]:
        return {INPUTS: self.length}

    @property
    def inputs_vocabulary(self) -> Vocabulary:
        return self.mixture.vocabulary_of(INPUTS)

    def model_arguments(self) -> dict[str, object]:
        """Returns the size of the larger vocabulary, whose ids the other one uses as well."""
        return {"vocabulary_size": max(self.inputs_vocabulary.size, self.vocabulary.size)}

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return TextClassificationPrompts(self.inputs_vocabulary, self.vocabulary, self.length)

    def _rows(self, task: Task, split: str) -> Rows:
        # A label is one id, and its end.
        return LabelledRows(PaddedRows(self._cache(task, split), [self.length, 2]))


class LabelledRows(Rows):
    """One text a row, and the id of its label as the first target; from rows of both."""

    def __init__(self, rows: PaddedRows):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, selection: Selection) -> Batch:
        batch = self._rows.take(selection)
        targets = np.zeros_like(batch[INPUTS])
        targets[:, 0] = batch[TARGETS][:, 0]
        return {INPUTS: batch[INPUTS], TARGETS: targets}


class TextClassificationPrompts(PromptFormat):
    """Prompts are inputs of at most `length` ids, and outputs are one id."""

    def __init__(self, vocabulary: Vocabulary, labels: Vocabulary, length: int):
        after = ends(vocabulary)
        lengths = {INPUTS: length, TARGETS: 1}
        super().__init__(vocabulary, labels, lengths, length - len(after), after=after)

    def output_limit(self, num_ids: int) -> int:
        return 1

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        row = self.row(inputs)
        length = bucket(len(row.ids), self.max_lengths[INPUTS])
        features = {INPUTS: row.ids, TARGETS: self.output_vocabulary.encode(target)}
        return ScoredRow(features, {INPUTS: length, TARGETS: length}, 0, row.truncated)
