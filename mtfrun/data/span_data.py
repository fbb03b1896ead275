"""Questions and the texts that contain their answers, for `transformer.SpanLabeler`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.checks import Range, check_fields
from mtfrun.data.batches import Batch, Places, Rows
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, ids_shape
from mtfrun.data.order import Selection
from mtfrun.data.prompts import PromptFormat, PromptLimits, PromptRow, ScoredRow, pad_rows
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.token_cache import TokenCache
from mtfrun.data.vocabularies.vocabulary import NO_END, Vocabulary

TYPES = "inputs_types"
# The shortest row has a question, a text and their ends.
_SHORTEST = 8


@dataclasses.dataclass(frozen=True)
class SpanData(TaskData):
    """Rows of a question and a context, and where the answer is; Devlin et al. 2018, section 4.2.

    A row is "question end context end". Of a context that is too long, a window around the answer
    is read in training, and its beginning in decoding; a longer question is cut to half a row. The
    vocabulary must have an end. Prompts are "question<tab>context".

    Attributes:
      length: ids of a row.
      separators: ends behind the question: 2 in RoBERTa's rows.
      task: its last preprocessor is `SquadSpans`.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = ("question", "before", "answer", "after")
    shown_texts: ClassVar[Sequence[str] | None] = (INPUTS, TARGETS)

    length: int
    separators: int = 1

    def __post_init__(self) -> None:
        check_fields(self, Range(_SHORTEST, whole=True), "length")
        check_fields(self, Range(1, 2, whole=True), "separators")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {**dict.fromkeys((INPUTS, TYPES), ids_shape(self.length)), TARGETS: ids_shape(2)}

    @property
    def tokens_per_row(self) -> int:
        return self.length

    def model_arguments(self) -> dict[str, object]:
        return {**super().model_arguments(), "end_id": self.vocabulary.end_id}

    @property
    def bytes_per_id(self) -> np.ndarray:
        # Targets are positions.
        return np.zeros([self.vocabulary.size], np.int32)

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return SpanPrompts(self._joiner, limits)

    def _rows(self, task: Task, split: str) -> Rows:
        return _SpanRows(self._cache(task, split), self._joiner)

    @property
    def _joiner(self) -> _Joiner:
        return _Joiner(self.vocabulary, self.length, self.separators)


class _Joiner:
    """Makes rows of ids of questions and contexts."""

    def __init__(self, vocabulary: Vocabulary, length: int, separators: int) -> None:
        self.vocabulary, self.length, self.separators = vocabulary, length, separators
        self._begin = len(vocabulary.encode(""))
        if vocabulary.end_id == NO_END:
            raise DataError(
                f"SpanData: {vocabulary!r} has no end, which divides a row: give it one"
            )

    def strip_begin(self, ids: np.ndarray) -> np.ndarray:
        """Returns the ids of a text without what the vocabulary puts before every text."""
        return ids[self._begin :]

    def room(self, question: np.ndarray) -> int:
        """Returns how many ids a context behind this question may have."""
        return self.length - len(self._head(question)) - 1

    def join(self, question: np.ndarray, context: np.ndarray) -> np.ndarray:
        end = [self.vocabulary.end_id]
        return np.concatenate([self._head(question), context, end]).astype(np.int32)

    def types(self, rows: np.ndarray) -> np.ndarray:
        """Returns int32 [rows, length], 1 behind the question and its ends, 0 at padding."""
        is_end = rows == self.vocabulary.end_id
        first_end = np.where(is_end.any(-1), is_end.argmax(-1), rows.shape[-1])
        is_context = np.arange(rows.shape[-1]) >= first_end[:, np.newaxis] + self.separators
        types: np.ndarray = is_context & (rows != self.vocabulary.pad_id)
        return types.astype(np.int32)

    def _head(self, question: np.ndarray) -> np.ndarray:
        ends = [self.vocabulary.end_id] * self.separators
        return np.concatenate([question[: self.length // 2], ends])


class _SpanRows(Rows):
    """One example a row; without a target where the answer is longer than the context may be."""

    def __init__(self, cache: TokenCache, joiner: _Joiner) -> None:
        self._cache, self._joiner = cache, joiner

    def __len__(self) -> int:
        return len(self._cache)

    def padding_of(self, feature: str) -> int:
        return {INPUTS: self._joiner.vocabulary.pad_id, TARGETS: -1}.get(feature, 0)

    def find(self, examples: np.ndarray) -> Places:
        return Places(np.arange(len(examples)), examples, np.zeros_like(examples))

    def take(self, selection: Selection) -> Batch:
        rows, targets = zip(*map(self._row, selection.rows.tolist()), strict=True)
        length, padding = self._joiner.length, self.padding_of(INPUTS)
        inputs = pad_rows(rows, len(rows), length, padding)
        return {
            INPUTS: inputs,
            TYPES: self._joiner.types(inputs),
            TARGETS: np.array(targets, np.int32),
        }

    def _row(self, example: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns ids, and the first and last position of the answer."""
        stops = self._cache.ends[example]
        first = self._cache.ends[example - 1, -1] if example else 0
        starts = [first, *stops[:-1]]
        # Without the end of each.
        texts = [
            self._cache.tokens[start : stop - 1] for start, stop in zip(starts, stops, strict=True)
        ]
        question, (before, answer, after) = texts[0], map(self._joiner.strip_begin, texts[1:])
        context = np.concatenate([before, answer, after])
        room = self._joiner.room(question)
        centre = len(before) + len(answer) // 2
        begin = max(0, min(centre - room // 2, len(context) - room))
        row = self._joiner.join(question, context[begin : begin + room])
        if not 0 < len(answer) <= room:
            return row, (-1, -1)
        place = self._joiner.length - room - 1 + len(before) - begin
        return row, (place, place + len(answer) - 1)


class SpanPrompts(PromptFormat):
    """Prompts are "question<tab>context", and outputs are parts of the context."""

    def __init__(self, joiner: _Joiner, limits: PromptLimits) -> None:
        lengths = {INPUTS: joiner.length, TARGETS: limits.decode_length}
        super().__init__(joiner.vocabulary, joiner.vocabulary, lengths)
        self._joiner = joiner

    def output_limit(self, num_ids: int) -> int:
        return min(num_ids, self.max_lengths[TARGETS])

    def row(self, prompt: bytes) -> PromptRow:
        question, tab, context = prompt.partition(b"\t")
        if not tab or not context.strip():
            raise DataError(
                "a prompt is a question, a tab and the text that has the answer; this one has "
                f"{'no text behind the tab' if tab else 'no tab'}"
            )
        encode = self.prompt_vocabulary.encode
        of_question, of_context = encode(question), self._joiner.strip_begin(encode(context))
        ids = self._joiner.join(of_question, of_context[: self._joiner.room(of_question)])
        read = len(ids) - self._joiner.separators - 1
        truncated = len(of_question) + len(of_context) - read
        return PromptRow(ids, read, truncated, 0, self.output_limit(len(ids)))

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        features = super().features(rows, batch, lengths)
        return {**features, TYPES: self._joiner.types(features[INPUTS])}

    def output(self, ids: np.ndarray) -> str:
        return super().output(ids).strip()

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        raise DataError("SpanData scores no pairs: its model marks positions of the inputs")
