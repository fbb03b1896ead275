"""Batches of running text that an objective changes: denoising, masked language models."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, ids_shape
from mtfrun.data.objectives.masked_language_model import MaskedLanguageModel
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText
from mtfrun.data.prompts import (
    EncoderDecoderPrompts,
    MaskedLanguageModelPrompts,
    PromptFormat,
    PromptLimits,
)
from mtfrun.data.rows.batches import Batch, Places, Rows, spread
from mtfrun.data.rows.order import Selection
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.errors.checks import COUNT, check_fields


class ObjectiveData(TaskData):
    """Running text from which an objective makes inputs and targets.

    Documents form one stream of ids without ends, cut into texts that fill the features. Noise
    differs in every epoch; an evaluation always has the noise of the first.
    """

    has_text: ClassVar[bool] = True

    objective: Objective

    @property
    def features(self) -> dict[str, mtf.Shape]:
        lengths = self.lengths
        return {INPUTS: ids_shape(lengths.inputs), TARGETS: ids_shape(lengths.targets)}

    @property
    @abc.abstractmethod
    def lengths(self) -> FeatureLengths: ...

    @functools.cached_property
    def raw_length(self) -> int:
        """The number of ids of the text of a row."""
        inputs, targets, _ = self.lengths
        return self.objective.raw_length(self.vocabulary, inputs=inputs, targets=targets)

    def _pair_prompts(self, inputs: int, targets: int, limits: PromptLimits) -> PromptFormat:
        vocabulary, lengths = self.vocabulary, {INPUTS: inputs, TARGETS: targets}
        joined = self.has_rows_of_pairs
        return EncoderDecoderPrompts(vocabulary, vocabulary, lengths, limits, joined=joined)

    def _rows(self, task: Task, split: str) -> Rows:
        return ObjectiveRows(self._cache(task, split), self)


@dataclasses.dataclass(frozen=True)
class DenoisingData(ObjectiveData):
    """Inputs and targets that an objective makes of running text, for encoder-decoder models.

    Prompts are inputs as in training: with sentinels, if the vocabulary can encode them, after a
    mode if the objective has modes. Otherwise see `ObjectiveData`.

    Attributes:
      inputs_length: maximum number of ids of the inputs, including the end.
      targets_length: the same of the targets; by default for the longest text that fits.
    """

    remedy: ClassVar[str] = (
        "set Experiment.data = @data.DelimitedDenoisingData(), which puts both in one row"
    )

    objective: Objective
    inputs_length: int
    targets_length: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "inputs_length")
        check_fields(self, COUNT, "targets_length", optional=True)

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return self._pair_prompts(self.lengths.inputs, self.lengths.targets, limits)

    @functools.cached_property
    def lengths(self) -> FeatureLengths:
        inputs, targets = self.inputs_length, self.targets_length
        if targets is None:
            targets = self.objective.targets_length(inputs, self.vocabulary)
        return FeatureLengths(inputs, targets, inputs + targets)


@dataclasses.dataclass(frozen=True)
class DelimitedDenoisingData(ObjectiveData):
    """Rows "inputs end targets end" that an objective makes of running text, for decoders.

    One text a row, for prefix and causal language models; see `DelimitedPairsData` and
    `DenoisingData`.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.DenoisingData()"
    has_rows_of_pairs: ClassVar[bool] = True

    objective: Objective
    length: int

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "length")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {TARGETS: ids_shape(self.length)}

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        inputs, targets, length = self.lengths
        inputs = min(inputs, max(length - targets, length // 2))
        return self._pair_prompts(inputs, min(targets, length - inputs), limits)

    @functools.cached_property
    def raw_length(self) -> int:
        return self.objective.raw_length(self.vocabulary, joined=self.length)

    @functools.cached_property
    def lengths(self) -> FeatureLengths:
        lengths = self.objective.feature_lengths(self.raw_length, self.vocabulary)
        return lengths._replace(joined=self.length)


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModelData(ObjectiveData):
    """Running text in rows of `length` ids, of which some are masked in the inputs, for encoders.

    Targets are the ids of the noise, and padding elsewhere, so that loss and accuracy are about the
    noise. Otherwise see `ObjectiveData`.
    """

    remedy: ClassVar[Mapping[str, str]] = {
        "targets_segmentation": "set Experiment.data = @data.DenoisingData()",
        "": "choose @transformer.EncoderOnly",
    }

    length: int
    objective: MaskedLanguageModel = dataclasses.field(default_factory=MaskedLanguageModel)

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "length")
        if self.objective.full_targets:
            remedy = "set it to False, or use @data.DenoisingData()"
            raise DataError(f"MaskedLanguageModelData.objective: full_targets generates: {remedy}")

    @property
    def tokens_per_row(self) -> int:
        return self.length

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return MaskedLanguageModelPrompts(self.vocabulary, self.length)

    @functools.cached_property
    def lengths(self) -> FeatureLengths:
        return FeatureLengths(self.length, self.length, 2 * self.length)


class ObjectiveRows(Rows):
    """Inputs and targets that the objective of `data` makes of the only feature of a cache.

    Texts are joined without ends and cut every `data.raw_length` ids, as for T5's objectives:
    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.4.
    """

    def __init__(self, cache: TokenCache, data: ObjectiveData):
        self._data, self._length = data, data.raw_length
        self._tokens = cache.tokens
        self._ends = cache.ends.reshape(-1)
        self._size = cache.tokens.size - self._ends.size

    def __len__(self) -> int:
        return -(-self._size // self._length)

    def take(self, selection: Selection) -> Batch:
        data, text = self._data, self.raw_texts(selection)
        batch = data.objective(text, data.lengths, data.vocabulary)
        return self._join(batch) if data.has_rows_of_pairs else batch

    def padding_of(self, feature: str) -> int:
        return self._data.vocabulary.pad_id

    def find(self, examples: np.ndarray) -> Places:
        stops = self._stops(examples)
        starts = np.where(examples > 0, self._stops(examples - 1), 0)
        first = starts // self._length
        counts = np.where(stops > starts, (stops - 1) // self._length - first + 1, 0)
        rows, numbers = spread(first, counts)
        return Places(numbers, rows, np.zeros_like(rows))

    def raw_texts(self, selection: Selection) -> RawText:
        batch, length = len(selection.rows), self._length
        starts = selection.rows * length
        lengths = np.minimum(self._size - starts, length)
        # An id stands in the cache after as many ends as there are documents before it.
        first = self._documents_before(starts)
        counts = self._documents_before(starts + lengths - 1) - first
        documents, row = spread(first, counts)
        columns = self._stops(documents) - starts[row]
        ends = np.bincount(row * length + columns, minlength=batch * length)
        ends_before = first[:, None] + np.cumsum(ends.reshape(batch, length), axis=1)
        column = np.arange(length)
        places = starts[:, None] + column + ends_before
        ids = self._tokens[np.minimum(places, self._tokens.size - 1)].astype(np.int32)
        ids[column >= lengths[:, None]] = 0
        return RawText(ids, lengths, selection.generators())

    def _join(self, batch: Batch) -> Batch:
        parts = np.concatenate([batch[INPUTS], batch[TARGETS]], axis=1)
        row, column = np.nonzero(parts)
        joined = np.zeros([len(parts), self._data.lengths.joined], np.int32)
        joined[row, np.cumsum(parts != 0, axis=1)[row, column] - 1] = parts[row, column]
        return {TARGETS: joined}

    def _stops(self, documents: np.ndarray) -> np.ndarray:
        stops: np.ndarray = self._ends[documents] - documents - 1
        return stops

    def _documents_before(self, places: np.ndarray) -> np.ndarray:
        """By bisection: an array of all `_stops` would take memory."""
        low = np.zeros_like(places)
        high = np.full_like(places, self._ends.size)
        while (is_open := low < high).any():
            middle = np.minimum((low + high) // 2, self._ends.size - 1)
            is_before = self._stops(middle) <= places
            low = np.where(is_open & is_before, middle + 1, low)
            high = np.where(is_open & ~is_before, middle, high)
        return low
