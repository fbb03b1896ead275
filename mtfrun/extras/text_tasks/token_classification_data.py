"""Batches of texts with a label for every word, for encoders."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import TokenCache, open_cache
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, ids_shape
from mtfrun.data.preprocessor import Fields, field_of
from mtfrun.data.prompts import PromptFormat, PromptLimits, PromptRow, ScoredRow, bucket, ends
from mtfrun.data.rows.batches import Batch, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.text_rows import PaddedRows
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.data.vocabularies.vocabulary import MarkedVocabulary, Vocabulary
from mtfrun.errors.checks import Range, check_fields
from mtfrun.extras.text_tasks.text_classification_data import LabelVocabulary


@dataclasses.dataclass(frozen=True)
class TokenClassificationData(TaskData):
    """Words as inputs, and the label of each as the target of its first id.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 5.3: the further ids of a word
    have no loss. Inputs are words with spaces between them, targets as many labels; every word is
    encoded behind a space. Longer texts are truncated before their end. The vocabulary of the
    task's targets is a `LabelVocabulary` with `own_softmax`. Prompts are words, outputs labels.

    Attributes:
      length: ids of a row, the end included.
      task: a task of pairs: the inputs are words, the targets labels.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = (INPUTS, TARGETS)

    length: int

    def __post_init__(self) -> None:
        check_fields(self, Range(2, whole=True), "length")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return dict.fromkeys((INPUTS, TARGETS), ids_shape(self.length))

    @property
    def vocabulary(self) -> LabelSequenceVocabulary:
        labels = super().vocabulary
        if not isinstance(labels, LabelVocabulary) or not labels.own_softmax:
            raise DataError(
                f"TokenClassificationData: the targets have {labels!r}: give them a "
                "LabelVocabulary with own_softmax=True"
            )
        return LabelSequenceVocabulary(labels.labels, own_softmax=True)

    @property
    def tokens_per_row(self) -> int:
        return self.length

    @property
    def text_limits(self) -> Mapping[str, int]:
        return {INPUTS: self.length}

    def model_arguments(self) -> dict[str, object]:
        size = self.mixture.vocabulary_of(INPUTS).size
        return {"vocabulary_size": size, "num_labels": len(self.vocabulary.labels)}

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return TokenClassificationPrompts(self._words, self.vocabulary, self.length)

    def _cache(self, task: Task, split: str, choice: CacheChoice = EVERY_CACHE) -> TokenCache:
        vocabularies = {INPUTS: self._words, TARGETS: self.vocabulary}
        preprocessors = [*task.preprocessors, RequireALabelForEveryWord()]
        task = dataclasses.replace(task, vocabulary=vocabularies, preprocessors=preprocessors)
        return open_cache(task, split, self.texts, choice)

    def _rows(self, task: Task, split: str) -> Rows:
        return _LabelledWords(self._cache(task, split), [self.length] * 2, self._words)

    @property
    def _words(self) -> WordVocabulary:
        return WordVocabulary(self.mixture.vocabulary_of(INPUTS))


@dataclasses.dataclass(frozen=True)
class RequireALabelForEveryWord:
    """Raises DataError for examples with more words than labels, or fewer."""

    def __call__(self, fields: Fields) -> Fields:
        words, labels = (field_of(self, fields, name).split() for name in (INPUTS, TARGETS))
        if len(words) != len(labels):
            start = b" ".join(words)[:40].decode("utf-8", "replace")
            raise DataError(
                f"an example has {len(words)} words and {len(labels)} labels, and every word needs "
                f"one: {start!r}"
            )
        return fields


class WordVocabulary(MarkedVocabulary):
    """Words with spaces between them, marked where one begins.

    A word for which the vocabulary has no id is unknown.
    """

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"words {self._vocabulary.fingerprint}".encode()).hexdigest()

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text.encode() if isinstance(text, str) else text
        parts = [self._vocabulary.encode("")]
        for word in content.split():
            ids = self._vocabulary.encode_continuation(b" " + word)
            if not len(ids):
                ids = np.array([self.unknown_id], np.int32)
            parts.append(self.mark(ids, np.arange(len(ids)) == 0))
        return np.concatenate(parts).astype(np.int32)


class LabelSequenceVocabulary(LabelVocabulary):
    """Any number of labels with spaces between them; ids that are no labels have no text."""

    def encode(self, text: str | bytes) -> np.ndarray:
        encode = super().encode
        return np.concatenate([np.zeros([0], np.int32), *map(encode, text.split())])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        labels = (super(LabelSequenceVocabulary, self).decode([token]) for token in ids)
        return " ".join(label for label in labels if label)


class _LabelledWords(PaddedRows):
    """One text a row, from rows of a `WordVocabulary`'s ids and of label sequences."""

    def __init__(self, cache: TokenCache, lengths: Sequence[int], words: WordVocabulary) -> None:
        super().__init__(cache, lengths)
        self._words = words

    def take(self, selection: Selection) -> Batch:
        batch = super().take(selection)
        inputs, is_first = self._words.divide(batch[INPUTS])
        word = np.maximum(np.cumsum(is_first, -1) - 1, 0)
        labels = np.take_along_axis(batch[TARGETS], word, -1)
        targets = np.where(is_first, labels, self.padding_of(TARGETS))
        return {INPUTS: inputs.astype(np.int32), TARGETS: targets.astype(np.int32)}


class TokenClassificationPrompts(PromptFormat):
    """Prompts are words with spaces between them, and outputs as many labels.

    The ids of a `PromptRow` are a `WordVocabulary`'s. An output has an id for every id of the
    prompt, `unknown_id` where no word begins.
    """

    has_plain_rows: ClassVar[bool] = False

    def __init__(self, words: WordVocabulary, labels: Vocabulary, length: int) -> None:
        super().__init__(words, labels, {INPUTS: length, TARGETS: length}, after=ends(words))
        self._words, self._labels = words, labels

    def output_limit(self, num_ids: int) -> int:
        return num_ids

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the ids of the words as inputs, and targets that are padding where one begins."""
        features = super().features(rows, batch, lengths)
        inputs, is_first = self._words.divide(features[INPUTS])
        targets = np.where(is_first, self._labels.pad_id, self._labels.unknown_id)
        return {INPUTS: inputs.astype(np.int32), TARGETS: targets.astype(np.int32)}

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row with the label of every word that it has; the score is of all labels."""
        RequireALabelForEveryWord()({INPUTS: inputs, TARGETS: target})
        row = self.row(inputs)
        ids, is_first = self._words.divide(row.ids)
        targets = np.full_like(ids, self._labels.pad_id)
        targets[is_first] = self._labels.encode(target)[: np.count_nonzero(is_first)]
        length = bucket(len(ids), self.max_lengths[INPUTS])
        features = {INPUTS: ids, TARGETS: targets}
        return ScoredRow(features, dict.fromkeys(features, length), 0, row.truncated)
