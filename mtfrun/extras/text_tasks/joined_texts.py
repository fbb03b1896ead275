"""Rows of two texts, "first end second end", with token types; labelled pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.prompts import PromptFormat, PromptRow, ScoredRow, bucket, ends, pad_rows
from mtfrun.data.rows.batches import Batch, Places, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.data.task import Fields, Task, field_of, label_name
from mtfrun.data.vocabularies.vocabulary import NO_END, Vocabulary

TYPES = "inputs_types"
# The shortest row has two texts and their ends.
SHORTEST_JOINED = 8


class JoinedRow(NamedTuple):
    """The ids of two texts and their ends, and token types: 1 behind the first text's ends."""

    ids: np.ndarray
    types: np.ndarray


class TextJoiner:
    """Makes rows of at most `length` ids, with `separators` ends after the first text."""

    def __init__(self, vocabulary: Vocabulary, length: int, separators: int) -> None:
        self.vocabulary, self.length, self.separators = vocabulary, length, separators
        self._begin = len(vocabulary.encode(""))
        if vocabulary.end_id == NO_END:
            raise DataError(f"{vocabulary!r} has no end to divide a row of two texts")

    @property
    def num_ends(self) -> int:
        return self.separators + 1

    def strip_begin(self, ids: np.ndarray) -> np.ndarray:
        """Removes the ids that the vocabulary puts before every text."""
        return ids[self._begin :]

    def room(self, first: np.ndarray) -> int:
        """Returns the maximum length of the second text."""
        return self.length - len(first) - self.num_ends

    def cut(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Truncates the longer text first, like `truncation=True` of transformers' fast tokenizers.

        An odd id goes to the longer text, or to the second.
        """
        sizes = len(first) - self._begin, len(second)
        room = self.length - self._begin - self.num_ends
        if sum(sizes) <= room:
            return first, second
        shorter = min(*sizes, room // 2)
        longer = room - shorter
        kept = (longer, shorter) if sizes[0] > sizes[1] else (shorter, longer)
        return first[: self._begin + kept[0]], second[: kept[1]]

    def join(self, first: np.ndarray, second: np.ndarray) -> JoinedRow:
        end = self.vocabulary.end_id
        ids = np.concatenate([first, [end] * self.separators, second, [end]])
        types = np.arange(len(ids)) >= len(first) + self.separators
        return JoinedRow(ids.astype(np.int32), types.astype(np.int32))

    def prompt_row(
        self,
        texts: tuple[np.ndarray, np.ndarray],
        parts: tuple[np.ndarray, np.ndarray],
        limit: Callable[[int], int],
    ) -> PromptRow:
        """Returns a row of the truncated `parts`; limit: the output limit for a number of ids."""
        ids, types = self.join(*parts)
        read = len(ids) - self.num_ends
        return PromptRow(ids, read, sum(map(len, texts)) - read, 0, limit(len(ids)), types)


class JoinedRows(Rows):
    """Rows of one cached example; subclasses join its texts."""

    def __init__(self, cache: TokenCache, joiner: TextJoiner) -> None:
        self._cache, self._joiner = cache, joiner

    def __len__(self) -> int:
        return len(self._cache)

    def find(self, examples: np.ndarray) -> Places:
        return Places(np.arange(len(examples)), examples, np.zeros_like(examples))

    def _texts(self, example: int) -> list[np.ndarray]:
        """Returns the ids of an example's texts, without ends."""
        stops = self._cache.ends[example]
        first = self._cache.ends[example - 1, -1] if example else 0
        starts = [first, *stops[:-1]]
        return [
            self._cache.tokens[start : stop - 1] for start, stop in zip(starts, stops, strict=True)
        ]


_FIRST, _SECOND = "first", "second"
CACHED_TEXTS = (_FIRST, _SECOND, TARGETS)


@dataclasses.dataclass(frozen=True)
class SplitInputs:
    """Divides inputs "first<tab>second" into these fields."""

    def __call__(self, fields: Fields) -> Fields:
        first, second = _split("an example", field_of(self, fields, INPUTS))
        return {**fields, _FIRST: first, _SECOND: second}


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Maps "first", "second" and "label" to inputs "first<tab>second" and targets.

    Tabs in the first text become spaces.

    Attributes:
      label_names: the labels' names, if the source returns indices; None for numbers.
    """

    label_names: Sequence[str] | None

    def __call__(self, fields: Fields) -> Fields:
        first, second, label = (field_of(self, fields, x) for x in ("first", "second", "label"))
        names = self.label_names
        return {
            INPUTS: first.replace(b"\t", b" ") + b"\t" + second,
            TARGETS: label if names is None else label_name(self, label, names),
        }


def with_split_inputs(task: Task) -> Task:
    """Returns the task with the fields `CACHED_TEXTS`."""
    inputs = task.vocabulary_of(INPUTS)
    vocabularies = {_FIRST: inputs, _SECOND: inputs, TARGETS: task.vocabulary_of(TARGETS)}
    preprocessors = [*task.preprocessors, SplitInputs()]
    return dataclasses.replace(task, vocabulary=vocabularies, preprocessors=preprocessors)


class LabelledPairs(JoinedRows):
    """Rows of one pair, with token types if used, and label ids as the first targets."""

    def __init__(self, cache: TokenCache, joiner: TextJoiner, num_targets: int):
        super().__init__(cache, joiner)
        self._num_targets = num_targets

    def padding_of(self, feature: str) -> int:
        paddings = {INPUTS: self._joiner.vocabulary.pad_id, TARGETS: self._cache.padding_id}
        return paddings.get(feature, 0)

    def take(self, selection: Selection) -> Batch:
        rows, types, labels = [], [], []
        for example in selection.rows.tolist():
            first, second, label = self._texts(example)
            pair = self._joiner.cut(first, self._joiner.strip_begin(second))
            row = self._joiner.join(*pair)
            rows.append(row.ids)
            types.append(row.types)
            end = self._cache.tokens[self._cache.ends[example, -1] - 1]
            labels.append(np.append(label, end)[: self._num_targets])
        inputs = pad_rows(rows, len(rows), self._joiner.length, self.padding_of(INPUTS))
        targets = pad_rows(labels, len(rows), self._joiner.length, self.padding_of(TARGETS))
        return {INPUTS: inputs, **_types(self._joiner, types, inputs), TARGETS: targets}


class TextClassificationPrompts(PromptFormat):
    """Prompts are inputs of at most `length` ids, and outputs are labels of `num_targets` ids."""

    classifies: ClassVar[bool] = True

    def __init__(
        self, vocabulary: Vocabulary, labels: Vocabulary, length: int, num_targets: int = 1
    ):
        lengths = {INPUTS: length, TARGETS: num_targets}
        super().__init__(vocabulary, labels, lengths, after=ends(vocabulary))

    def output_limit(self, num_ids: int) -> int:
        return self.max_lengths[TARGETS]

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        return self.score_label(self.row(inputs), target)

    def score_label(self, row: PromptRow, target: bytes) -> ScoredRow:
        length = bucket(len(row.ids), self.max_lengths[INPUTS])
        features = {INPUTS: row.ids, TARGETS: self.output_vocabulary.encode(target)}
        return ScoredRow(features, {INPUTS: length, TARGETS: length}, 0, row.truncated)


class PairClassificationPrompts(TextClassificationPrompts):
    """Prompts are "first<tab>second", and outputs are one id."""

    has_plain_rows: ClassVar[bool] = False

    def __init__(self, joiner: TextJoiner, labels: Vocabulary, num_targets: int) -> None:
        super().__init__(joiner.vocabulary, labels, joiner.length, num_targets)
        self._joiner = joiner

    def row(self, prompt: bytes) -> PromptRow:
        first, second = map(self.prompt_vocabulary.encode, _split("a prompt", prompt))
        second = self._joiner.strip_begin(second)
        parts = self._joiner.cut(first, second)
        return self._joiner.prompt_row((first, second), parts, self.output_limit)

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        features = super().features(rows, batch, lengths)
        types = [row.types for row in rows]
        return {**features, **_types(self._joiner, types, features[INPUTS])}

    def score_label(self, row: PromptRow, target: bytes) -> ScoredRow:
        scored = super().score_label(row, target)
        if not has_types(self._joiner.separators):
            return scored
        return scored._replace(
            features={**scored.features, TYPES: row.types},
            lengths={**scored.lengths, TYPES: scored.lengths[INPUTS]},
        )


def has_types(separators: int) -> bool:
    """RoBERTa's rows, with two ends between the texts, have no token types."""
    return separators == 1


def _types(
    joiner: TextJoiner, types: Sequence[np.ndarray], inputs: np.ndarray
) -> dict[str, np.ndarray]:
    return {TYPES: pad_rows(types, *inputs.shape)} if has_types(joiner.separators) else {}


def _split(what: str, text: bytes) -> tuple[bytes, bytes]:
    first, tab, second = text.partition(b"\t")
    if not tab:
        raise DataError(
            f"{what} is two texts with a tab between them: {text[:40].decode('utf-8', 'replace')!r}"
        )
    return first, second
