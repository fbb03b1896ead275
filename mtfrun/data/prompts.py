"""Conversion of prompts, and of pairs to score, to rows of ids: a class for each form of prompt."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.vocabularies.vocabulary import NO_END, Vocabulary

# The shortest row. Lengths of rows are powers of two: a program is compiled for each.
SHORTEST_ROW = 16


@dataclasses.dataclass(frozen=True)
class PromptLimits:
    """Limits of the lengths of rows and outputs.

    Attributes:
      max_length: ids of a prompt and its continuation, or of an input and a scored target.
      decode_length: maximum number of ids that are generated for a prompt.
      multiplier, constant: a second limit of outputs if prompts are inputs,
        (ids of the inputs) * multiplier + constant.
    """

    max_length: int
    decode_length: int
    multiplier: float = 1.5
    constant: int = 10


class ScoredRow(NamedTuple):
    """A pair as features to be padded to `lengths`.

    The target begins at `begin` in "targets", and its last `num_ends` ids end it.
    """

    features: dict[str, np.ndarray]
    lengths: dict[str, int]
    begin: int
    truncated: int
    num_ends: int = 0


class PromptRow(NamedTuple):
    """One prompt as ids of the model's input, of which `read` are tokens of the prompt.

    `truncated` tokens of the prompt were cut off; `prefix` ids of it begin the output, which has at
    most `limit` ids, the prefix included. `types` are of ids of two texts, see `JoinedRow`.
    """

    ids: np.ndarray
    read: int
    truncated: int
    prefix: int
    limit: int
    types: np.ndarray = np.zeros([0], np.int32)


class PromptFormat(abc.ABC):
    """Conversion of prompts to batches, and of outputs to texts.

    A row holds at most `longest` ids of the prompt, then the ids `after`. Programs without Python
    make plain rows from the attributes likewise.

    Attributes:
      max_lengths: the longest rows, by feature.
      classifies: whether an output is a label or several, not text.
      has_plain_rows: whether a row is the ids of a prompt as one text, as the attributes say.
      feature: the feature that holds the prompt: the targets, if there are no inputs.
      from_end: whether a longer prompt loses its first ids, not the last.
      mask: the id that a prediction replaces, if the targets hold all other ids of the inputs.
      stop: texts that end an output without being part of it.
      end_ids: ids that end an output besides the vocabulary's.
    """

    continues: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    has_plain_rows: ClassVar[bool] = True
    mask: int | None = None
    stop: Sequence[str] = ()
    end_ids: Sequence[int] = ()

    def __init__(
        self,
        prompt_vocabulary: Vocabulary,
        output_vocabulary: Vocabulary,
        max_lengths: Mapping[str, int],
        longest: int | None = None,
        *,
        from_end: bool = False,
        after: Sequence[int] = (),
    ):
        self.prompt_vocabulary = prompt_vocabulary
        self.output_vocabulary = output_vocabulary
        self.max_lengths = max_lengths
        self.feature = INPUTS if INPUTS in max_lengths else TARGETS
        self.longest = max_lengths[self.feature] - len(after) if longest is None else longest
        self.from_end = from_end
        self.after = after
        vocabulary = output_vocabulary if self.feature == TARGETS else prompt_vocabulary
        self.padding = vocabulary.pad_id

    @abc.abstractmethod
    def output_limit(self, num_ids: int) -> int:
        """Returns the maximum number of ids of the output of a row, its prefix included."""

    @abc.abstractmethod
    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row of a pair; the log-likelihood of its targets is the pair's score."""

    def row(self, prompt: bytes) -> PromptRow:
        return self.row_of(self.prompt_vocabulary.encode(prompt))

    def row_of(self, encoded: np.ndarray) -> PromptRow:
        prompt = truncate(encoded, self.longest, from_end=self.from_end)
        ids = np.concatenate([prompt, self.after]).astype(np.int32)
        prefix = len(ids) if self.feature == TARGETS else 0
        limit = self.output_limit(len(ids))
        return PromptRow(ids, len(prompt), len(encoded) - len(prompt), prefix, limit)

    def lengths(self, row: PromptRow) -> dict[str, int]:
        sizes = {INPUTS: len(row.ids), TARGETS: row.limit}
        return {name: bucket(sizes[name], longest) for name, longest in self.max_lengths.items()}

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the features [batch, length] or [batch]; targets are the outputs' prefixes."""
        ids = [row.ids for row in rows]
        if self.feature == TARGETS:
            return {TARGETS: pad_rows(ids, batch, lengths[TARGETS], self.padding)}
        # Rows of padding have an end, so that attention has an id to attend to.
        ids += [np.array([self.prompt_vocabulary.end_id], np.int32)] * (batch - len(rows))
        return {
            INPUTS: pad_rows(ids, batch, lengths[INPUTS], self.padding),
            TARGETS: pad_rows([], batch, lengths[TARGETS], self.output_vocabulary.pad_id),
        }

    def longest_prefix(self, lengths: Mapping[str, int]) -> int:
        if self.feature == INPUTS:
            return 0
        return min(self.longest + len(self.after), lengths[TARGETS])

    def output(self, ids: np.ndarray) -> str:
        """Returns the text of the ids behind the prefix of an output, without its end."""
        return self.output_vocabulary.decode_output(ids, continues=self.continues)


class ConversationTemplate(Protocol):
    """Conversion of a conversation to text."""

    def prompt_format(self, vocabulary: Vocabulary, limits: PromptLimits) -> PromptFormat:
        """Returns prompts that are conversations, which an assistant's turn continues."""


class LanguageModelPrompts(PromptFormat):
    """Prompts are the beginning of the targets, and outputs continue them.

    A prompt that does not leave `decode_length` ids, or half of `max_length` if that is less, is
    truncated at its beginning.
    """

    continues: ClassVar[bool] = True

    def __init__(self, vocabulary: Vocabulary, limits: PromptLimits):
        longest = limits.max_length - min(limits.decode_length, limits.max_length // 2)
        max_lengths = {TARGETS: limits.max_length}
        super().__init__(vocabulary, vocabulary, max_lengths, longest, from_end=True)
        self._limits = limits

    def output_limit(self, num_ids: int) -> int:
        return min(num_ids + self._limits.decode_length, self._limits.max_length)

    def longest_prefix(self, lengths: Mapping[str, int]) -> int:
        length = lengths[TARGETS]
        # Rows that are shorter than `max_length` can hold `decode_length` ids behind the prompt.
        output_length = self._limits.decode_length if length < self._limits.max_length else 0
        return max(0, min(self.longest, length - output_length))

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row "inputs target end"; if too long, inputs lose their beginning first."""
        vocabulary, max_length = self.prompt_vocabulary, self._limits.max_length
        encode_target = vocabulary.encode_continuation if inputs else vocabulary.encode
        input_ids, target_ids = vocabulary.encode(inputs), encode_target(target)
        num_ends = len(ends(vocabulary))
        num_tokens = len(input_ids) + len(target_ids) + num_ends
        target_ids = with_end(vocabulary, target_ids, max_length)
        input_ids = truncate(input_ids, max_length - len(target_ids), from_end=True)
        ids = np.concatenate([input_ids, target_ids]).astype(np.int32)
        lengths = {TARGETS: bucket(len(ids), max_length)}
        return ScoredRow({TARGETS: ids}, lengths, len(input_ids), num_tokens - len(ids), num_ends)


class EncoderDecoderPrompts(PromptFormat):
    """Prompts are the inputs, and outputs are the targets; `joined`: both in one row.

    Texts that are too long are truncated before their end id, or in `cut_at_front` at the
    beginning. `max_lengths` are the ids of inputs and targets, the end included.
    """

    def __init__(
        self,
        inputs_vocabulary: Vocabulary,
        targets_vocabulary: Vocabulary,
        max_lengths: Mapping[str, int],
        limits: PromptLimits,
        cut_at_front: Collection[str] = (),
        *,
        joined: bool = False,
    ):
        after = ends(inputs_vocabulary)
        super().__init__(
            inputs_vocabulary,
            targets_vocabulary,
            {TARGETS: sum(max_lengths.values())} if joined else max_lengths,
            max_lengths[INPUTS] - len(after),
            from_end=INPUTS in cut_at_front,
            after=after,
        )
        self._limits, self._joined = limits, joined
        self._text_lengths, self._cut_at_front = max_lengths, cut_at_front

    def output_limit(self, num_ids: int) -> int:
        limit = int(num_ids * self._limits.multiplier + self._limits.constant)
        limit = max(1, min(limit, self._limits.decode_length, self._text_lengths[TARGETS]))
        return num_ids + limit if self._joined else limit

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        vocabularies = {INPUTS: self.prompt_vocabulary, TARGETS: self.output_vocabulary}
        ids, lengths, truncated = {}, {}, 0
        for name, text in ((INPUTS, inputs), (TARGETS, target)):
            encoded = vocabularies[name].encode(text)
            from_end = name in self._cut_at_front
            longest = self._text_lengths[name]
            ids[name] = with_end(vocabularies[name], encoded, longest, from_end=from_end)
            lengths[name] = bucket(len(ids[name]), longest)
            truncated += len(encoded) + 1 - len(ids[name])
        begin = 0
        if self._joined:
            begin, row = len(ids[INPUTS]), np.concatenate([ids[INPUTS], ids[TARGETS]])
            ids, lengths = {TARGETS: row}, {TARGETS: bucket(len(row), self.max_lengths[TARGETS])}
        return ScoredRow(ids, lengths, begin, truncated, len(ends(self.output_vocabulary)))


class MaskedLanguageModelPrompts(PromptFormat):
    """Prompts are texts with masks, and outputs are the texts with predictions in their place.

    The vocabulary's first sentinel is the mask. Long prompts are truncated at their end. Prompts
    have an end if the vocabulary puts a beginning before them, as BERT's.
    """

    def __init__(self, vocabulary: Vocabulary, length: int):
        after = ends(vocabulary) if len(vocabulary.encode("")) else []
        lengths = {INPUTS: length, TARGETS: length}
        super().__init__(vocabulary, vocabulary, lengths, after=after)
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
        inputs = pad_rows(ids, batch, lengths[INPUTS], self.padding)
        targets = np.where(inputs == self.mask, self.padding, inputs).astype(np.int32)
        return {INPUTS: inputs, TARGETS: targets}

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        raise DataError("MaskedLanguageModelData scores no pairs: it predicts masked ids only")


def truncate(ids: np.ndarray, longest: int, *, from_end: bool = False) -> np.ndarray:
    return ids[max(0, len(ids) - longest) :] if from_end else ids[:longest]


def ends(vocabulary: Vocabulary) -> list[int]:
    return [] if vocabulary.end_id == NO_END else [vocabulary.end_id]


def with_end(
    vocabulary: Vocabulary, ids: np.ndarray, length: int, *, from_end: bool = False
) -> np.ndarray:
    """Returns at most `length` ids int32: the first or last, then the end id, if there is one."""
    after = ends(vocabulary)
    truncated = truncate(ids, length - len(after), from_end=from_end)
    return np.concatenate([truncated, after]).astype(np.int32)


def bucket(length: int, longest: int | None = None) -> int:
    """Returns the least power of two, 16 or more, that is at least `length`; at most `longest`."""
    size = SHORTEST_ROW
    while size < length:
        size *= 2
    return size if longest is None else min(size, longest)


def pad_rows(
    rows: Sequence[np.ndarray], batch: int, length: int, padding_id: int = 0
) -> np.ndarray:
    """Returns ids of int32, [batch, length], whose first rows begin with those that are given."""
    ids = np.full([batch, length], padding_id, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids
