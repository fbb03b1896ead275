"""Files of conversations, and batches with a loss on what an assistant writes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import TokenCache, open_cache
from mtfrun.data.features import INPUTS, TARGETS, packed_features
from mtfrun.data.prompts import PromptFormat, PromptLimits
from mtfrun.data.rows.batches import Batch, Rows
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.text_rows import PackedRows, RowsByLength
from mtfrun.data.sources.records import BadRecordError, RecordFiles, json_value
from mtfrun.data.sources.streams import LONGEST_PART
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.data.vocabularies.vocabulary import MarkedVocabulary, Vocabulary, divide_marked
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.extras.chat.messages import (
    ASSISTANT,
    MESSAGES,
    Template,
    conversation_json,
    conversation_of,
    encode_conversation,
    read_conversation,
)

WEIGHTS = f"{TARGETS}_weights"


@dataclasses.dataclass(frozen=True)
class Conversations(RecordFiles):
    """One JSON object per line: {"messages": [{"role": ..., "content": ...}, ...]}, OpenAI's form.

    Or {"conversations": [{"from": ..., "value": ...}, ...]}, ShareGPT's form. The field "targets"
    is the conversation as JSON, in the first form. Blank lines are left out.
    """

    def _fields(self, record: bytes) -> Mapping[str, bytes] | None:
        if not record.strip():
            return None
        text = conversation_json(conversation_of(json_value(record)))
        if len(text) > LONGEST_PART:
            raise BadRecordError(f"it has {len(text):,} bytes, more than {LONGEST_PART:,}")
        return {TARGETS: text}


@dataclasses.dataclass(frozen=True)
class ConversationData(TaskData):
    """Conversations in packed rows of `length` ids, for decoder-only models.

    The loss is on the ids that an assistant writes: "targets_weights" is 1 there and 0 elsewhere.
    Conversations of a row do not attend to each other. Longer ones are truncated, and each has an
    end id behind it, without a loss. An evaluation has one conversation per row.

    Attributes:
      task: the field "targets" of its examples is a conversation, see `conversation_of`.
      template: how a conversation becomes text.
    """

    template: Template
    length: int

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "length")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        features = packed_features(self.length)
        return {**features, WEIGHTS: features[TARGETS]}

    @property
    def text_limits(self) -> Mapping[str, int]:
        return {TARGETS: self.length}

    @property
    def conversation_template(self) -> Template:
        return self.template

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return self.template.prompt_format(self.vocabulary, limits)

    def vocabulary_files(self) -> list[str]:
        return [*super().vocabulary_files(), *self.template.files]

    def source_texts(self, split: str, features: Collection[str]) -> Iterator[bytes]:
        """Yields the texts of a split, without the template's additions."""
        for text in super().source_texts(split, features):
            for message in read_conversation(text)[MESSAGES]:
                yield str(message["content"] or "").encode("utf-8", "replace")

    def examples(self, split: str) -> Iterator[Mapping[str, bytes]]:
        """Yields the last turn of an assistant as the targets, and as inputs all before it."""
        for example in super().examples(split):
            conversation = read_conversation(example[TARGETS])
            messages = conversation[MESSAGES]
            turns = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
            if turns:
                before = {**conversation, MESSAGES: messages[: turns[-1]]}
                answer = str(messages[turns[-1]]["content"] or "")
                yield {
                    INPUTS: conversation_json(before),
                    TARGETS: answer.encode("utf-8", "replace"),
                }

    def _cache(self, task: Task, split: str, choice: CacheChoice = EVERY_CACHE) -> TokenCache:
        vocabulary = AnswersVocabulary(task.vocabulary_of(TARGETS), self.template)
        task = dataclasses.replace(task, vocabulary=vocabulary)
        return open_cache(task, split, self.texts, choice)

    def _rows(self, task: Task, split: str) -> Rows:
        return WeightedRows(self._cache(task, split), self.length, self.vocabulary.size)

    def _evaluation_rows(self, task: Task, split: str) -> Rows:
        return WeightedRowsByLength(self._cache(task, split), self.length, self.vocabulary.size)


class AnswersVocabulary(MarkedVocabulary):
    """Conversations in JSON, marked where an assistant writes."""

    def __init__(self, vocabulary: Vocabulary, template: Template):
        super().__init__(vocabulary)
        self._template = template

    @property
    def fingerprint(self) -> str:
        parts = f"{self._vocabulary.fingerprint} {self._template.fingerprint}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode() if isinstance(text, str) else text
        return self.mark(*encode_conversation(data, self._template, self._vocabulary))


class WeightedRows(PackedRows):
    """Packed ids of an `AnswersVocabulary`, divided into ids and the weights of their losses."""

    def __init__(self, cache: TokenCache, length: int, size: int):
        # Joined, so that a long conversation is truncated, not continued in another row.
        super().__init__(cache, [length], joined=length)
        self._size = size

    def take(self, selection: Selection) -> Batch:
        return with_weights(super().take(selection), self._size)


class WeightedRowsByLength(RowsByLength):
    """One conversation a row, see `WeightedRows`."""

    def __init__(self, cache: TokenCache, length: int, size: int):
        super().__init__(cache, [length])
        self._size = size

    def take(self, selection: Selection) -> Batch:
        return with_weights(super().take(selection), self._size)


def with_weights(batch: Batch, size: int) -> Batch:
    ids, is_answer = divide_marked(batch[TARGETS], size)
    return {**batch, TARGETS: ids, WEIGHTS: is_answer.astype(np.int32)}
