"""Batches of running text with masks, for encoders."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun.checks import COUNT, check_fields
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, Feature, ids_feature
from mtfrun.data.objective_rows import ObjectiveRows
from mtfrun.data.objectives import FeatureLengths, MaskedLanguageModel
from mtfrun.data.prompts import PromptFormat, PromptLimits, PromptRow, ScoredRow, padded
from mtfrun.data.rows import Rows
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModelData(TaskData):
    """Running text in rows of `length` ids, of which some are masked in the inputs.

    Documents form one stream of ids without ends. Targets are the ids of the noise, 0 elsewhere, so
    that loss and accuracy are about the noise. Noise differs in every epoch; an evaluation always
    has the noise of the first.
    """

    remedy: ClassVar[str] = (
        "choose @transformer.EncoderOnly, or @data.DenoisingData() for an encoder-decoder"
    )
    has_text: ClassVar[bool] = True

    length: int
    objective: MaskedLanguageModel = dataclasses.field(default_factory=MaskedLanguageModel)

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "length")
        if self.objective.full_targets:
            raise DataError(
                "MaskedLanguageModelData.objective: full_targets is for models that generate text: "
                "set it to False, or use @data.DenoisingData()"
            )

    @property
    def features(self) -> dict[str, Feature]:
        return {
            INPUTS: ids_feature(self.length, "ids with noise, 0 for padding"),
            TARGETS: ids_feature(self.length, "ids of the noise, 0 elsewhere, which has no loss"),
        }

    @property
    def tokens_per_row(self) -> int:
        return self.length

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return MaskedLanguageModelPrompts(self.vocabulary, self.length)

    @functools.cached_property
    def _raw_length(self) -> int:
        return self.objective.raw_length(self.length, self.length, self.vocabulary)

    def _rows(self, task: Task, split: str) -> Rows:
        lengths = FeatureLengths(self.length, self.length, 2 * self.length)
        cache = self._cache(task, split)
        return ObjectiveRows(cache, self._raw_length, self.objective, lengths, self.vocabulary)


class MaskedLanguageModelPrompts(PromptFormat):
    """Prompts are texts with masks, and outputs are the texts with predictions in their place.

    The score of an output is the log-probability of the predictions. A prompt that is too long is
    truncated at its end. The vocabulary's first sentinel is the mask.
    """

    def __init__(self, vocabulary: Vocabulary, length: int):
        super().__init__(vocabulary, vocabulary, {INPUTS: length, TARGETS: length}, length)
        self.mask: int = vocabulary.sentinel(0)

    def output_limit(self, num_ids: int) -> int:
        return num_ids

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the prompts as inputs, and as targets their ids that are not masks."""
        # Rows of padding have an id, so that attention has one to attend to.
        ids = [row.ids if row.ids.size else np.array([self.mask], np.int32) for row in rows]
        ids += [np.array([self.mask], np.int32)] * (batch - len(rows))
        inputs = padded(ids, batch, lengths[INPUTS])
        return {INPUTS: inputs, TARGETS: np.where(inputs == self.mask, 0, inputs).astype(np.int32)}

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        raise DataError(
            "MaskedLanguageModelData scores no pairs: a masked language model predicts masked ids "
            "only"
        )
