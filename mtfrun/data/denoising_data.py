"""Batches of running text with an objective, for models of pairs of texts."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

from mtfrun.checks import COUNT, check_fields
from mtfrun.data.features import INPUTS, TARGETS, Feature, ids_feature
from mtfrun.data.objective_rows import JoinedObjectiveRows, ObjectiveRows
from mtfrun.data.objectives import FeatureLengths, Objective
from mtfrun.data.prompts import (
    DecoderOnlyPrompts,
    EncoderDecoderPrompts,
    PromptFormat,
    PromptLimits,
)
from mtfrun.data.rows import Rows
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData


@dataclasses.dataclass(frozen=True)
class DenoisingData(TaskData):
    """Running text from which an objective makes inputs and targets, for encoder-decoder models.

    Documents form one stream of ids without ends, cut into texts that fill the features. Noise
    differs in every epoch; an evaluation always has the noise of the first.

    Prompts are inputs as in training: with sentinels, if the vocabulary can encode them, after a
    mode if the objective has modes.

    Attributes:
      inputs_length: maximum number of ids of the inputs, including the end.
      targets_length: of the targets; by default for the longest text whose inputs fit.
    """

    remedy: ClassVar[str] = (
        "set Experiment.data = @data.DelimitedDenoisingData(), which puts both in one row"
    )
    has_text: ClassVar[bool] = True

    objective: Objective
    inputs_length: int
    targets_length: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "inputs_length")
        check_fields(self, COUNT, "targets_length", optional=True)

    @property
    def features(self) -> dict[str, Feature]:
        meaning = "ids and the end, then 0 for padding"
        return {
            INPUTS: ids_feature(self._lengths.inputs, meaning),
            TARGETS: ids_feature(self._lengths.targets, meaning),
        }

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return _prompts(self, self._lengths, limits)

    @functools.cached_property
    def _raw_length(self) -> int:
        targets_length = self._lengths.targets
        return self.objective.raw_length(self.inputs_length, targets_length, self.vocabulary)

    @functools.cached_property
    def _lengths(self) -> FeatureLengths:
        inputs, targets = self.inputs_length, self.targets_length
        if targets is None:
            targets = self.objective.targets_length(inputs, self.vocabulary)
        return FeatureLengths(inputs, targets, inputs + targets)

    def _rows(self, task: Task, split: str) -> Rows:
        cache = self._cache(task, split)
        return ObjectiveRows(
            cache, self._raw_length, self.objective, self._lengths, self.vocabulary
        )


@dataclasses.dataclass(frozen=True)
class DelimitedDenoisingData(TaskData):
    """Running text from which an objective makes rows "inputs end targets end", for decoders.

    One text a row; otherwise as `DenoisingData`. For prefix language models, whose inputs see each
    other, and for causal ones; see `DelimitedPairsData`.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.DenoisingData()"
    has_text: ClassVar[bool] = True
    has_rows_of_pairs: ClassVar[bool] = True

    objective: Objective
    length: int

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "length")

    @property
    def features(self) -> dict[str, Feature]:
        return {TARGETS: ids_feature(self.length, "ids, 0 for padding, which has no loss")}

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return DecoderOnlyPrompts(_prompts(self, self._lengths_of_pairs, limits))

    @functools.cached_property
    def _raw_length(self) -> int:
        return self.objective.raw_length_in_one_row(self.length, self.vocabulary)

    @functools.cached_property
    def _lengths(self) -> FeatureLengths:
        lengths = self.objective.feature_lengths(self._raw_length, self.vocabulary)
        return lengths._replace(joined=self.length)

    @property
    def _lengths_of_pairs(self) -> FeatureLengths:
        inputs, targets, length = self._lengths
        inputs = min(inputs, max(length - targets, length // 2))
        return FeatureLengths(inputs, min(targets, length - inputs), length)

    def _rows(self, task: Task, split: str) -> Rows:
        cache = self._cache(task, split)
        return JoinedObjectiveRows(
            cache, self._raw_length, self.objective, self._lengths, self.vocabulary
        )


def _prompts(
    data: TaskData, lengths: FeatureLengths, limits: PromptLimits
) -> EncoderDecoderPrompts:
    max_lengths = {INPUTS: lengths.inputs, TARGETS: lengths.targets}
    return EncoderDecoderPrompts(data.vocabulary, data.vocabulary, max_lengths, limits)
