"""Questions and the texts that contain their answers, for `text_tasks.SpanLabeler`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, ids_shape
from mtfrun.data.prompts import PromptFormat, PromptLimits, PromptRow, ScoredRow, pad_rows
from mtfrun.data.rows.batches import Batch, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.errors.checks import Range, check_fields
from mtfrun.extras.text_tasks.joined_texts import (
    SHORTEST_JOINED,
    TYPES,
    JoinedRow,
    JoinedRows,
    TextJoiner,
)


@dataclasses.dataclass(frozen=True)
class SpanData(TaskData):
    """Questions, contexts and the positions of answers; Devlin et al. 2018, section 4.2.

    A row is "question end context end". Long contexts are cut to a window around the answer in
    training, and to their beginning in decoding; long questions to half a row. The vocabulary must
    have an end. Prompts are "question<tab>context".

    Attributes:
      length: the number of ids of a row.
      separators: the number of ends after the question, 2 in RoBERTa's rows.
      task: the task, with `SquadSpans` as its last preprocessor.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = ("question", "before", "answer", "after")
    shown_texts: ClassVar[Sequence[str] | None] = (INPUTS, TARGETS)

    length: int
    separators: int = 1

    def __post_init__(self) -> None:
        check_fields(self, Range(SHORTEST_JOINED, whole=True), "length")
        check_fields(self, Range(1, 2, whole=True), "separators")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {**dict.fromkeys((INPUTS, TYPES), ids_shape(self.length)), TARGETS: ids_shape(2)}

    @property
    def tokens_per_row(self) -> int:
        return self.length

    def model_arguments(self) -> dict[str, object]:
        return {**super().model_arguments(), "answers": self.vocabulary}

    @property
    def bytes_per_id(self) -> np.ndarray:
        # Targets are positions.
        return np.zeros([self.vocabulary.size], np.int32)

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return SpanPrompts(self._joiner, limits)

    def _rows(self, task: Task, split: str) -> Rows:
        return _SpanRows(self._cache(task, split), self._joiner)

    @property
    def _joiner(self) -> TextJoiner:
        return TextJoiner(self.vocabulary, self.length, self.separators)


class _SpanRows(JoinedRows):
    """Answers that do not fit into a row have no target."""

    def padding_of(self, feature: str) -> int:
        return {INPUTS: self._joiner.vocabulary.pad_id, TARGETS: -1}.get(feature, 0)

    def take(self, selection: Selection) -> Batch:
        rows, targets = zip(*map(self._row, selection.rows.tolist()), strict=True)
        length, padding = self._joiner.length, self.padding_of(INPUTS)
        return {
            INPUTS: pad_rows([row.ids for row in rows], len(rows), length, padding),
            TYPES: pad_rows([row.types for row in rows], len(rows), length),
            TARGETS: np.array(targets, np.int32),
        }

    def _row(self, example: int) -> tuple[JoinedRow, tuple[int, int]]:
        """Returns the row, and the first and last position of the answer."""
        question, *texts = self._texts(example)
        question = _cut_question(question, self._joiner)
        before, answer, after = map(self._joiner.strip_begin, texts)
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
    """Prompts "question<tab>context", with parts of the context as outputs."""

    has_plain_rows: ClassVar[bool] = False

    def __init__(self, joiner: TextJoiner, limits: PromptLimits) -> None:
        lengths = {INPUTS: joiner.length, TARGETS: limits.decode_length}
        super().__init__(joiner.vocabulary, joiner.vocabulary, lengths)
        self._joiner = joiner

    def output_limit(self, num_ids: int) -> int:
        return min(num_ids, self.max_lengths[TARGETS])

    def row(self, prompt: bytes) -> PromptRow:
        question, tab, context = prompt.partition(b"\t")
        if not tab or not context.strip():
            raise DataError(
                "a prompt is a question, a tab and the text with the answer; this one has no "
                f"{'text after the tab' if tab else 'tab'}"
            )
        encode = self.prompt_vocabulary.encode
        texts = encode(question), self._joiner.strip_begin(encode(context))
        first = _cut_question(texts[0], self._joiner)
        parts = first, texts[1][: self._joiner.room(first)]
        return self._joiner.prompt_row(texts, parts, self.output_limit)

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        features = super().features(rows, batch, lengths)
        types = [row.types for row in rows]
        return {**features, TYPES: pad_rows(types, *features[INPUTS].shape)}

    def output(self, ids: np.ndarray) -> str:
        return super().output(ids).strip()

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        raise DataError(
            "SpanData scores no pairs: `mtfrun decode` prints answers with their log-probability"
        )


def _cut_question(ids: np.ndarray, joiner: TextJoiner) -> np.ndarray:
    return ids[: joiner.length // 2]
