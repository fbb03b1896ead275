"""Conversion of prompts, and of pairs to score, to rows of ids."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.vocabularies import Vocabulary
from mtfrun.data.vocabularies.vocabulary import NO_END

# The shortest of the lengths of rows, which are powers of two: a program is compiled for each.
SHORTEST_ROW = 16


@dataclasses.dataclass(frozen=True)
class PromptLimits:
    """Limits of the lengths of rows and outputs.

    Attributes:
      max_length: ids of a prompt and its continuation, or of an input and a scored target.
      decode_length: maximum number of ids that are generated for a prompt.
      multiplier, constant: where prompts are inputs, outputs also have at most
        (ids of the inputs) * multiplier + constant ids.
    """

    max_length: int
    decode_length: int
    multiplier: float = 1.5
    constant: int = 10


class ScoredRow(NamedTuple):
    """A pair whose target is scored.

    Attributes:
      features: the ids, by feature.
      lengths: the length to which each feature is padded.
      begin: index of the target's first id in the feature "targets"; the target extends to its end.
      truncated: number of tokens of input and target that were cut off.
    """

    features: dict[str, np.ndarray]
    lengths: dict[str, int]
    begin: int
    truncated: int


class Row(NamedTuple):
    """One prompt as ids.

    Attributes:
      ids: input of the model.
      read: number of tokens of the prompt among them.
      truncated: number of tokens of the prompt that were cut off.
      prefix: number of ids at the beginning of the output that are the prompt's.
      limit: maximum number of ids of the output, the prefix included.
    """

    ids: np.ndarray
    read: int
    truncated: int
    prefix: int
    limit: int


class RowForm(NamedTuple):
    """How a row is made of the ids of a prompt; programs without Python make it likewise.

    Attributes:
      feature: the feature that holds the ids; other features hold none.
      longest: maximum number of ids of a prompt.
      from_end: whether the last ids of a longer prompt are kept, not the first.
      after: ids that follow.
      padding: the id behind the row's.
      mask: the id that a prediction replaces; the targets hold all other ids as well. None where
        the targets hold no ids of the inputs.
    """

    feature: str
    longest: int
    from_end: bool = False
    after: Sequence[int] = ()
    padding: int = 0
    mask: int | None = None

    def ids(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the ids of the row, int32."""
        first = max(0, len(encoded) - self.longest) if self.from_end else 0
        kept = encoded[first : first + self.longest]
        return np.concatenate([kept, self.after]).astype(np.int32)


class Prompting(abc.ABC):
    """Interface of the conversion of prompts to batches, and of outputs to texts.

    Attributes:
      continues: whether outputs are texts that continue others.
    """

    continues: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def form(self) -> RowForm:
        """How a row is made of the ids of a prompt."""

    @property
    @abc.abstractmethod
    def prompt_vocabulary(self) -> Vocabulary:
        """Text to ids, of prompts."""

    @property
    @abc.abstractmethod
    def output_vocabulary(self) -> Vocabulary:
        """Ids to text, of outputs."""

    def row(self, prompt: bytes) -> Row:
        """Returns a prompt as ids."""
        return self.row_of(self.prompt_vocabulary.encode(prompt))

    @abc.abstractmethod
    def row_of(self, encoded: np.ndarray) -> Row:
        """Returns the row of the ids of a prompt."""

    @abc.abstractmethod
    def lengths(self, row: Row) -> dict[str, int]:
        """Returns the lengths of the features in the program that decodes the row."""

    @abc.abstractmethod
    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the features [batch, length] of the rows; targets are the outputs' prefixes."""

    @abc.abstractmethod
    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        """Returns the longest prefix of the outputs of rows of these lengths."""

    def output(self, ids: np.ndarray) -> str:
        """Returns the text of the ids behind the prefix of an output."""
        if self.continues:
            return self.output_vocabulary.decode_continuation(ids)
        return self.output_vocabulary.decode(ids)

    @abc.abstractmethod
    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row whose targets' log-likelihood is the score of a pair.

        Raises:
          DataError: the data has no such rows.
        """


@dataclasses.dataclass(frozen=True)
class Continuing(Prompting):
    """Prompts are the beginning of the targets, and outputs continue them.

    Attributes:
      vocabulary: text to ids and back.
      limits: a prompt that does not leave `decode_length` ids, or half of `max_length` if that is
        less, is truncated at its beginning.
    """

    continues: ClassVar[bool] = True

    vocabulary: Vocabulary
    limits: PromptLimits

    @property
    def form(self) -> RowForm:
        """The last ids of the prompt."""
        max_length = self.limits.max_length
        longest = max_length - min(self.limits.decode_length, max_length // 2)
        return RowForm(TARGETS, longest, from_end=True, padding=self.vocabulary.pad_id)

    @property
    def prompt_vocabulary(self) -> Vocabulary:
        """Text to ids and back."""
        return self.vocabulary

    @property
    def output_vocabulary(self) -> Vocabulary:
        """Text to ids and back."""
        return self.vocabulary

    def row_of(self, encoded: np.ndarray) -> Row:
        """Returns the prompt as the beginning of the output."""
        ids = self.form.ids(encoded)
        limit = min(len(ids) + self.limits.decode_length, self.limits.max_length)
        return Row(ids, len(ids), len(encoded) - len(ids), len(ids), limit)

    def lengths(self, row: Row) -> dict[str, int]:
        """Returns the length of the targets, which hold prompt and output."""
        return {TARGETS: bucket(row.limit, self.limits.max_length)}

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the prompts as the beginning of the targets."""
        ids = [row.ids for row in rows]
        return {TARGETS: padded(ids, batch, lengths[TARGETS], self.vocabulary.pad_id)}

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        """Returns the longest prompt of rows of this length."""
        length = lengths[TARGETS]
        # Rows that are shorter than `max_length` can hold `decode_length` ids behind the prompt.
        output_length = self.limits.decode_length if length < self.limits.max_length else 0
        return max(0, min(self.form.longest, length - output_length))

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns the row "inputs target end" of at most `max_length` ids.

        If it is too long, the inputs are truncated first, at their beginning, then the target.
        """
        encode_target = self.vocabulary.encode_continuation if inputs else self.vocabulary.encode
        input_ids, target_ids = self.vocabulary.encode(inputs), encode_target(target)
        num_tokens = len(input_ids) + len(target_ids) + int(self.vocabulary.end_id != NO_END)
        target_ids = with_end(self.vocabulary, target_ids, self.limits.max_length)
        inputs_length = min(self.limits.max_length - len(target_ids), len(input_ids))
        input_ids = input_ids[len(input_ids) - inputs_length :]
        ids = np.concatenate([input_ids, target_ids]).astype(np.int32)
        lengths = {TARGETS: bucket(len(ids), self.limits.max_length)}
        return ScoredRow({TARGETS: ids}, lengths, inputs_length, num_tokens - len(ids))


@dataclasses.dataclass(frozen=True)
class Answering(Prompting):
    """Prompts are the inputs, and outputs are the targets.

    Texts that are too long are cut at the end, or at the beginning.

    Attributes:
      inputs_vocabulary, targets_vocabulary: text to ids and back.
      inputs_length, targets_length: maximum number of ids, including the end.
      limits: of the outputs.
      cut_at_front: the features that are cut at the beginning.
    """

    inputs_vocabulary: Vocabulary
    targets_vocabulary: Vocabulary
    inputs_length: int
    targets_length: int
    limits: PromptLimits
    cut_at_front: Sequence[str] = ()

    @property
    def form(self) -> RowForm:
        """The first ids of the prompt, or the last ones, then the end id."""
        form = form_with_end(self.inputs_vocabulary, self.inputs_length)
        return form._replace(from_end=INPUTS in self.cut_at_front)

    @property
    def prompt_vocabulary(self) -> Vocabulary:
        """That of the inputs."""
        return self.inputs_vocabulary

    @property
    def output_vocabulary(self) -> Vocabulary:
        """That of the targets."""
        return self.targets_vocabulary

    def row_of(self, encoded: np.ndarray) -> Row:
        """Returns the prompt and the end as inputs."""
        ids = self.form.ids(encoded)
        limit = int(len(ids) * self.limits.multiplier + self.limits.constant)
        limit = max(1, min(limit, self.limits.decode_length, self.targets_length))
        read = len(ids) - len(self.form.after)
        return Row(ids, read, len(encoded) - read, 0, limit)

    def lengths(self, row: Row) -> dict[str, int]:
        """Returns the lengths of inputs and targets."""
        return {
            INPUTS: bucket(len(row.ids), self.inputs_length),
            TARGETS: bucket(row.limit, self.targets_length),
        }

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the prompts as inputs, and targets of zeros."""
        # Rows of padding have an end, so that attention has an id to attend to.
        padding = [np.asarray([self.inputs_vocabulary.end_id], np.int32)] * (batch - len(rows))
        return {
            INPUTS: padded([*(row.ids for row in rows), *padding], batch, lengths[INPUTS]),
            TARGETS: np.zeros([batch, lengths[TARGETS]], np.int32),
        }

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        """Returns 0: outputs do not begin with the prompt."""
        return 0

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns a pair as inputs and targets, each truncated before its end."""
        encoded = {
            INPUTS: self.inputs_vocabulary.encode(inputs),
            TARGETS: self.targets_vocabulary.encode(target),
        }
        ids = {
            name: with_end(vocabulary, encoded[name], length, from_end=name in self.cut_at_front)
            for name, vocabulary, length in (
                (INPUTS, self.inputs_vocabulary, self.inputs_length),
                (TARGETS, self.targets_vocabulary, self.targets_length),
            )
        }
        lengths = {
            INPUTS: bucket(len(ids[INPUTS]), self.inputs_length),
            TARGETS: bucket(len(ids[TARGETS]), self.targets_length),
        }
        truncated = sum(len(encoded[name]) + 1 - len(ids[name]) for name in ids)
        return ScoredRow(ids, lengths, 0, truncated)


@dataclasses.dataclass(frozen=True)
class AnsweringInRow(Prompting):
    """Prompts are the inputs, and outputs follow their end in the same row.

    Attributes:
      answering: truncation of the prompt and limits of the output, as where inputs are separate.
    """

    answering: Answering

    @property
    def form(self) -> RowForm:
        """The first ids of the prompt, and the end."""
        padding_id = self.answering.targets_vocabulary.pad_id
        return self.answering.form._replace(feature=TARGETS, padding=padding_id)

    @property
    def prompt_vocabulary(self) -> Vocabulary:
        """That of the inputs."""
        return self.answering.prompt_vocabulary

    @property
    def output_vocabulary(self) -> Vocabulary:
        """That of the targets."""
        return self.answering.output_vocabulary

    def row_of(self, encoded: np.ndarray) -> Row:
        """Returns the inputs, their end included, as the beginning of the output."""
        row = self.answering.row_of(encoded)
        prefix = len(row.ids)
        return row._replace(prefix=prefix, limit=prefix + row.limit)

    def lengths(self, row: Row) -> dict[str, int]:
        """Returns the length of the targets, which hold inputs and output."""
        return {TARGETS: bucket(row.limit, self._max_length)}

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the prompts as the beginning of the targets."""
        padding_id = self.answering.targets_vocabulary.pad_id
        ids = [row.ids for row in rows]
        return {TARGETS: padded(ids, batch, lengths[TARGETS], padding_id)}

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        """Returns the longest inputs of rows of this length."""
        return min(self.answering.inputs_length, lengths[TARGETS])

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        """Returns a pair as a row, the targets after the end of the inputs."""
        pair = self.answering.scored_row(inputs, target)
        row = np.concatenate([pair.features[INPUTS], pair.features[TARGETS]])
        lengths = {TARGETS: bucket(len(row), self._max_length)}
        return ScoredRow({TARGETS: row}, lengths, len(pair.features[INPUTS]), pair.truncated)

    @property
    def _max_length(self) -> int:
        return self.answering.inputs_length + self.answering.targets_length


def form_with_end(vocabulary: Vocabulary, length: int) -> RowForm:
    """Returns the form of inputs of at most `length` ids, the end included, if there is one."""
    after = [] if vocabulary.end_id == NO_END else [vocabulary.end_id]
    return RowForm(INPUTS, length - len(after), after=after)


def with_end(
    vocabulary: Vocabulary, ids: np.ndarray, length: int, *, from_end: bool = False
) -> np.ndarray:
    """Returns the first or last ids, then the end id, if there is one; int32 [<= length]."""
    return form_with_end(vocabulary, length)._replace(from_end=from_end).ids(ids)


def bucket(length: int, longest: int | None = None) -> int:
    """Returns the least power of two, 16 or more, that is at least `length`; at most `longest`.

    Examples:
      >>> [bucket(n, 100) for n in (1, 17, 65, 100)]
      [16, 32, 100, 100]
    """
    size = SHORTEST_ROW
    while size < length:
        size *= 2
    return size if longest is None else min(size, longest)


def padded(rows: Sequence[np.ndarray], batch: int, length: int, padding_id: int = 0) -> np.ndarray:
    """Returns the rows as int32 [batch, length], padded, with rows of padding behind them."""
    ids = np.full([batch, length], padding_id, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids
