"""Data of texts with a label, several labels or a number, and their vocabularies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import TokenCache, open_cache
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, ids_shape
from mtfrun.data.prompts import PromptFormat, PromptLimits
from mtfrun.data.rows.batches import Batch, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.text_rows import PaddedRows
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.data.vocabularies.vocabulary import Vocabulary, before_end
from mtfrun.errors import did_you_mean
from mtfrun.errors.checks import Range, check_fields, check_range
from mtfrun.extras.text_tasks.joined_texts import (
    CACHED_TEXTS,
    SHORTEST_JOINED,
    TYPES,
    LabelledPairs,
    PairClassificationPrompts,
    TextClassificationPrompts,
    TextJoiner,
    has_types,
    with_split_inputs,
)


@dataclasses.dataclass(frozen=True)
class TextClassificationData(TaskData):
    """Texts with a label, several labels or a number, the targets of the first positions.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, sections 3 and 4.1. Long texts are cut
    before their end. Targets have an `AnswerVocabulary`. The softmax of a label is over all ids of
    the model, labels first, so that the weights of a masked language model fit; or over the labels
    alone, see `LabelVocabulary.own_softmax`. A beam search returns several labels, best first.

    Inputs may be two texts with a tab between them: a row is "first end second end", and with one
    separator "inputs_types" are 1 in the second text and its end. Long pairs are truncated by
    `TextJoiner.cut`.

    Attributes:
      length: the number of ids of a row, with the end.
      separators: the number of ends after the first of two texts, 1 in BERT's rows, 2 in RoBERTa's;
        None for single texts.
      task: the task of pairs of a text and its label, labels or number.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = (INPUTS, TARGETS)

    length: int
    separators: int | None = None

    def __post_init__(self) -> None:
        shortest = 2 if self.separators is None else SHORTEST_JOINED
        check_fields(self, Range(shortest, whole=True), "length")
        check_fields(self, Range(1, 2, whole=True), "separators", optional=True)

    @property
    def vocabulary(self) -> AnswerVocabulary:
        answers = super().vocabulary
        if not isinstance(answers, AnswerVocabulary):
            remedy = "a LabelVocabulary, LabelSetVocabulary or NumberVocabulary"
            raise DataError(f"TextClassificationData: targets have {answers!r}: give them {remedy}")
        return answers

    @property
    def features(self) -> dict[str, mtf.Shape]:
        if self.length < (least := self.vocabulary.num_targets):
            rule = f"must be at least {least}, the number of labels and their end"
            raise DataError(f"TextClassificationData.length={self.length} {rule}")
        names = [INPUTS, TARGETS]
        if self.separators is not None and has_types(self.separators):
            names.append(TYPES)
        return dict.fromkeys(names, ids_shape(self.length))

    @property
    def tokens_per_row(self) -> int:
        return self.length

    @property
    def text_limits(self) -> Mapping[str, int]:
        # The limit of the second text depends on the first.
        return {INPUTS: self.length} if self.separators is None else {}

    def model_arguments(self) -> dict[str, object]:
        return self.vocabulary.model_arguments(self.mixture.vocabulary_of(INPUTS).size)

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        answers = self.vocabulary
        if (joiner := self._joiner) is not None:
            return PairClassificationPrompts(joiner, answers, answers.num_targets)
        inputs = self.mixture.vocabulary_of(INPUTS)
        return TextClassificationPrompts(inputs, answers, self.length, answers.num_targets)

    @property
    def _joiner(self) -> TextJoiner | None:
        if self.separators is None:
            return None
        return TextJoiner(self.mixture.vocabulary_of(INPUTS), self.length, self.separators)

    def _cache(self, task: Task, split: str, choice: CacheChoice = EVERY_CACHE) -> TokenCache:
        if self.separators is None:
            return super()._cache(task, split, choice)
        return open_cache(with_split_inputs(task), split, CACHED_TEXTS, choice)

    def _rows(self, task: Task, split: str) -> Rows:
        number = self.vocabulary.num_targets
        if (joiner := self._joiner) is not None:
            return LabelledPairs(self._cache(task, split), joiner, number)
        # A label is one id, and its end.
        return LabelledRows(self._cache(task, split), [self.length, max(2, number)], number)


class LabelledRows(PaddedRows):
    """Rows of one text, with label ids as the first targets."""

    def __init__(self, cache: TokenCache, lengths: Sequence[int], num_targets: int) -> None:
        super().__init__(cache, lengths)
        self._num_targets = num_targets

    def take(self, selection: Selection) -> Batch:
        batch = super().take(selection)
        targets = np.full_like(batch[INPUTS], self.padding_of(TARGETS))
        targets[:, : self._num_targets] = batch[TARGETS][:, : self._num_targets]
        return {INPUTS: batch[INPUTS], TARGETS: targets}


class AnswerVocabulary(Vocabulary):
    """Answers about a text, which are not running text; ids from 0 on.

    Attributes:
      num_targets: the number of ids of a row's targets.
    """

    pad_id: int = -1
    end_id: int = 0
    unknown_id: int = 0
    size: int = 0
    fingerprint: str = ""
    sentinels = np.zeros([0], np.int32)
    bytes_per_id = np.zeros([0], np.int32)
    num_targets: int = 1

    def _number_answers(self, number: int) -> None:
        # The end of stored texts, which is not trained on, follows the answers.
        self.end_id, self.unknown_id, self.size = number, number + 1, number + 2
        self.bytes_per_id = np.zeros([self.size], np.int32)
        self.fingerprint = hashlib.sha256(repr(self).encode()).hexdigest()

    def model_arguments(self, inputs_size: int) -> dict[str, object]:
        return {"vocabulary_size": inputs_size, "answers": self}


class LabelVocabulary(AnswerVocabulary):
    """One id per label, from 3 on.

    Args:
      labels: the names of the classes.
      own_softmax: whether ids begin with 0, and models have logits of the labels only, as
        classifiers of Hugging Face do.
    """

    padding_remedy = "LabelVocabulary.own_softmax=True"

    def __init__(self, labels: Sequence[str], *, own_softmax: bool = False):
        self.labels, self.own_softmax = tuple(labels), own_softmax
        self._first_label_id = 0 if own_softmax else 3
        self._id_of = {label: self._first_label_id + i for i, label in enumerate(self.labels)}
        if not self.labels or len(self._id_of) < len(self.labels):
            raise DataError("LabelVocabulary.labels must be distinct, and not empty")
        self._number_answers(len(self.labels))
        if not own_softmax:
            self.pad_id, self.end_id, self.unknown_id, self.size = 0, 1, 2, 3 + len(self.labels)
            self.bytes_per_id = np.zeros([self.size], np.int32)
        content = json.dumps(["LabelVocabulary", *self.labels, *[own_softmax] * own_softmax])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def __repr__(self) -> str:
        own = ", own_softmax=True" if self.own_softmax else ""
        return f"LabelVocabulary({list(self.labels)}{own})"

    def model_arguments(self, inputs_size: int) -> dict[str, object]:
        """Returns the larger vocabulary's size, or with a softmax of the labels both sizes."""
        if self.own_softmax:
            return {"vocabulary_size": inputs_size, "num_labels": len(self.labels)}
        return {"vocabulary_size": max(inputs_size, self.size)}

    def encode(self, text: str | bytes) -> np.ndarray:
        label = text if isinstance(text, str) else text.decode("utf-8", "replace")
        if label not in self._id_of:
            raise DataError(
                f'"{label}" is none of LabelVocabulary.labels, {", ".join(self.labels)}'
                f"{did_you_mean(label, self.labels)}: add it to LABELS"
            )
        return np.array([self._id_of[label]], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the label of the first id, or ""."""
        first = np.asarray(ids).reshape(-1)[:1]
        number = int(first[0]) - self._first_label_id if first.size else -1
        return self.labels[number] if 0 <= number < len(self.labels) else ""


class LabelSetVocabulary(LabelVocabulary):
    """Label ids from 0 on; a text has any number of labels with `separator` between them."""

    has_label_sets = True

    def __init__(self, labels: Sequence[str], separator: str = ","):
        self._separator = separator
        super().__init__(labels, own_softmax=True)
        wrong = [label for label in labels if separator in label or label != label.strip()]
        if wrong or not separator.strip():
            raise DataError(
                f"LabelSetVocabulary.separator={separator!r} is in the label "
                f"{(wrong or [''])[0]!r}, or spaces are around it: set another separator"
            )
        self.num_targets = len(self.labels) + 1
        self.fingerprint = hashlib.sha256(repr(self).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"LabelSetVocabulary({list(self.labels)}, {self._separator!r})"

    def model_arguments(self, inputs_size: int) -> dict[str, object]:
        return AnswerVocabulary.model_arguments(self, inputs_size)

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text if isinstance(text, str) else text.decode("utf-8", "replace")
        names = [name.strip() for name in content.split(self._separator)]
        ids = [super(LabelSetVocabulary, self).encode(name) for name in names if name]
        return np.unique(np.concatenate([*ids, np.zeros([0], np.int32)])).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        names = (super(LabelSetVocabulary, self).decode([x]) for x in before_end(ids, self.end_id))
        return f"{self._separator} ".join(name for name in names if name)


# Maximum number of ids, to keep arrays small.
_MOST_NUMBERS = 1 << 20


class NumberVocabulary(AnswerVocabulary):
    """The numbers minimum, minimum + 10^-decimals, ..., maximum, with ids from 0 on.

    Texts are decimals, which are rounded.

    Attributes:
      numbers: the numbers by id, float64.
    """

    def __init__(self, minimum: float = 0.0, maximum: float = 5.0, decimals: int = 3):
        check_range("NumberVocabulary.decimals", decimals, Range(0, 6, whole=True))
        last = round((maximum - minimum) * 10**decimals)
        if not 0 < last < _MOST_NUMBERS:
            raise DataError(
                f"NumberVocabulary: from minimum={minimum} to maximum={maximum} there must be 2 to "
                f"{_MOST_NUMBERS:,} numbers of decimals={decimals}, not {last + 1:,}"
            )
        self._minimum, self._maximum, self._decimals = minimum, maximum, decimals
        self.numbers = minimum + np.arange(last + 1) / 10**decimals
        self._number_answers(last + 1)

    def __repr__(self) -> str:
        return f"NumberVocabulary({self._minimum}, {self._maximum}, {self._decimals})"

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text if isinstance(text, str) else text.decode("utf-8", "replace")
        try:
            number = float(content)
        except ValueError:
            number = math.nan
        if not self._minimum <= number <= self._maximum:
            raise DataError(
                f'"{content}" is not a number from {self._minimum} to {self._maximum}: see '
                "NumberVocabulary.minimum and maximum"
            )
        return np.array([round((number - self._minimum) * 10**self._decimals)], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the number of the first id, or ""."""
        first = int(np.asarray(ids).reshape(-1)[0]) if len(ids) else -1
        is_number = 0 <= first < len(self.numbers)
        return f"{self.numbers[first]:.{self._decimals}f}" if is_number else ""
