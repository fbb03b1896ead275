"""Data of texts with a label for every word, for encoders."""

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
from mtfrun.data.prompts import PromptFormat, PromptLimits, PromptRow, ScoredRow, bucket, ends
from mtfrun.data.rows.batches import Batch, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.text_rows import PaddedRows
from mtfrun.data.task import Fields, Task, field_of, label_name, texts_of
from mtfrun.data.text.task_data import TaskData
from mtfrun.data.vocabularies.vocabulary import MarkedVocabulary, Vocabulary
from mtfrun.errors.checks import Range, check_fields
from mtfrun.extras.text_tasks.text_classification_data import LabelVocabulary


@dataclasses.dataclass(frozen=True)
class TokenClassificationData(TaskData):
    """Words, with their labels as targets of their first ids.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 5.3: further ids of a word have no
    loss. Inputs are words with spaces between them, targets as many labels; each word is encoded
    after a space. Long texts are truncated before their end. Targets have a `LabelVocabulary` with
    `own_softmax`. Prompts are words, outputs labels.

    Attributes:
      length: the number of ids of a row, with the end.
      task: the task of pairs of words and labels.
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
                "TokenClassificationData: give targets a LabelVocabulary with own_softmax=True, "
                f"not {labels!r}"
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
class WordLabels:
    """Joins the lists "words" and "labels" with spaces, for `TokenClassificationData`.

    The source must read the lists: {"words": "tokens/*", "labels": "ner_tags/*"}.

    Attributes:
      label_names: the labels' names, if the source returns indices.
    """

    label_names: Sequence[str]

    def __call__(self, fields: Fields) -> Fields:
        words, labels = (texts_of(fields, name) for name in ("words", "labels"))
        for word in words:
            if word.split() != [word]:
                text = word.decode("utf-8", "replace")
                raise DataError(f"{self}: {text!r} is not one word")
        names = [label_name(self, label, self.label_names) for label in labels]
        return {INPUTS: b" ".join(words), TARGETS: b" ".join(names)}


@dataclasses.dataclass(frozen=True)
class RequireALabelForEveryWord:
    """Raises DataError for examples with more words than labels, or fewer."""

    def __call__(self, fields: Fields) -> Fields:
        words, labels = (field_of(self, fields, name).split() for name in (INPUTS, TARGETS))
        if len(words) != len(labels):
            start = b" ".join(words)[:40].decode("utf-8", "replace")
            raise DataError(
                f"an example has {len(words)} words and {len(labels)} labels, not one per word: "
                f"{start!r}"
            )
        return fields


class WordVocabulary(MarkedVocabulary):
    """Words with spaces between them, each marked at its first id; unknown without an id."""

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
    """Any number of labels with spaces between them."""

    def encode(self, text: str | bytes) -> np.ndarray:
        encode = super().encode
        return np.concatenate([np.zeros([0], np.int32), *map(encode, text.split())])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        labels = (super(LabelSequenceVocabulary, self).decode([token]) for token in ids)
        return " ".join(label for label in labels if label)


class _LabelledWords(PaddedRows):
    """Rows of one text, from cached `WordVocabulary` ids and label sequences."""

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
    """Prompts of words, with as many labels as outputs.

    A `PromptRow` has ids of a `WordVocabulary`; an output has an id for each of them, `unknown_id`
    inside words.
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
        """Returns word ids as inputs, and targets with padding where a word begins."""
        features = super().features(rows, batch, lengths)
        inputs, is_first = self._words.divide(features[INPUTS])
        targets = np.where(is_first, self._labels.pad_id, self._labels.unknown_id)
        return {INPUTS: inputs.astype(np.int32), TARGETS: targets.astype(np.int32)}

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row with its words' labels, which are scored together."""
        RequireALabelForEveryWord()({INPUTS: inputs, TARGETS: target})
        row = self.row(inputs)
        ids, is_first = self._words.divide(row.ids)
        targets = np.full_like(ids, self._labels.pad_id)
        targets[is_first] = self._labels.encode(target)[: np.count_nonzero(is_first)]
        length = bucket(len(ids), self.max_lengths[INPUTS])
        features = {INPUTS: ids, TARGETS: targets}
        return ScoredRow(features, dict.fromkeys(features, length), 0, row.truncated)
