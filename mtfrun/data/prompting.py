"""How prompts, and pairs that are scored, become rows of ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.vocabulary import Vocabulary

# Rows are made in lengths of powers of two from here on: a program is compiled for each.
SHORTEST_ROW = 16


@dataclasses.dataclass(frozen=True)
class PromptLimits:
    """How long rows may be.

    max_length: ids of a prompt and its continuation, or of an input and a scored target, together.
    decode_length: ids that are made for a prompt at most.
    multiplier, constant: where prompts are inputs of their own, also at most
        (ids of the inputs) * multiplier + constant.
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
      begin: where the target begins in the feature "targets"; it ends where that does.
      truncated: tokens of input and target that are not in it, for lack of room.
    """

    features: dict[str, np.ndarray]
    lengths: dict[str, int]
    begin: int
    truncated: int


class Row(NamedTuple):
    """One prompt, as ids.

    Attributes:
      ids: what the model reads.
      read: tokens of the prompt among them.
      truncated: tokens of the prompt that are not, for lack of room.
      given: ids at the beginning of the output that are the prompt's own.
      limit: ids that the output may have, the given ones included.
    """

    ids: np.ndarray
    read: int
    truncated: int
    given: int
    limit: int


class Prompting(Protocol):
    """Makes batches of prompts."""

    def row(self, prompt: bytes) -> Row:
        """Returns a prompt as ids."""

    def lengths(self, row: Row) -> dict[str, int]:
        """Returns the lengths of the features of a program that has room for the row."""

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns the features [batch, length] of the rows; targets are what outputs begin with."""

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        """Returns how many ids the outputs of rows of these lengths can begin with at most."""


@dataclasses.dataclass(frozen=True)
class Continuing:
    """A prompt is the beginning of the targets, and the output continues it.

    limits: a prompt that leaves no room for `decode_length` ids, or for half of `max_length` if
        that is less, is read from its end backwards.
    """

    vocabulary: Vocabulary
    limits: PromptLimits

    @property
    def _read(self) -> int:
        """The ids of a prompt that are read at most."""
        longest = self.limits.max_length
        return longest - min(self.limits.decode_length, longest // 2)

    def row(self, prompt: bytes) -> Row:
        encoded = self.vocabulary.encode(prompt)
        ids = encoded[-self._read :]
        limit = min(len(ids) + self.limits.decode_length, self.limits.max_length)
        return Row(ids, len(ids), len(encoded) - len(ids), len(ids), limit)

    def lengths(self, row: Row) -> dict[str, int]:
        return {TARGETS: bucket(row.limit, self.limits.max_length)}

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        return {TARGETS: padded([row.ids for row in rows], batch, lengths[TARGETS])}

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        length = lengths[TARGETS]
        # Rows that are shorter than `max_length` have room for all that is made.
        room = self.limits.decode_length if length < self.limits.max_length else 0
        return max(0, min(self._read, length - room))


@dataclasses.dataclass(frozen=True)
class Answering:
    """A prompt is the inputs, read from its beginning, and the output is all of the targets.

    inputs_length, targets_length: ids at most, the end included.
    limits: of the output.
    """

    vocabulary: Vocabulary
    inputs_length: int
    targets_length: int
    limits: PromptLimits

    def row(self, prompt: bytes) -> Row:
        encoded = self.vocabulary.encode(prompt)
        ids = with_end(self.vocabulary, encoded, self.inputs_length)
        limit = int(len(ids) * self.limits.multiplier + self.limits.constant)
        limit = max(1, min(limit, self.limits.decode_length, self.targets_length))
        read = len(ids) - 1
        return Row(ids, read, len(encoded) - read, 0, limit)

    def lengths(self, row: Row) -> dict[str, int]:
        return {
            INPUTS: bucket(len(row.ids), self.inputs_length),
            TARGETS: bucket(row.limit, self.targets_length),
        }

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        # Rows that fill up the batch read an end, so that attention has something to attend to.
        fill = [np.asarray([self.vocabulary.end_id], np.int32)] * (batch - len(rows))
        return {
            INPUTS: padded([*(row.ids for row in rows), *fill], batch, lengths[INPUTS]),
            TARGETS: np.zeros([batch, lengths[TARGETS]], np.int32),
        }

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class AnsweringInRow:
    """A prompt is the inputs, and the output follows their end in the same row.

    apart: what the model reads of the prompt, and how long the output may be.
    """

    apart: Answering

    def row(self, prompt: bytes) -> Row:
        row = self.apart.row(prompt)
        given = len(row.ids)
        return row._replace(given=given, limit=given + row.limit)

    def lengths(self, row: Row) -> dict[str, int]:
        return {TARGETS: bucket(row.limit, self.apart.inputs_length + self.apart.targets_length)}

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        return {TARGETS: padded([row.ids for row in rows], batch, lengths[TARGETS])}

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        return min(self.apart.inputs_length, lengths[TARGETS])


def continued_pair(
    vocabulary: Vocabulary, inputs: bytes, target: bytes, max_length: int
) -> ScoredRow:
    """Returns the row "inputs target end" of at most `max_length` ids.

    The target comes first where room is short: the inputs are read from their end backwards.
    """
    before, scored = vocabulary.encode(inputs), vocabulary.encode(target)
    length = len(before) + len(scored)
    scored = with_end(vocabulary, scored, max_length)
    room = max_length - len(scored)
    before = before[len(before) - min(room, len(before)) :]
    ids = np.concatenate([before, scored]).astype(np.int32)
    lengths = {TARGETS: bucket(len(ids), max_length)}
    return ScoredRow({TARGETS: ids}, lengths, len(before), length + 1 - len(ids))


def with_end(vocabulary: Vocabulary, ids: np.ndarray, length: int) -> np.ndarray:
    """Returns the first ids and the end, int32, at most `length` together."""
    return np.append(ids[: length - 1], vocabulary.end_id).astype(np.int32)


def bucket(length: int, longest: int) -> int:
    """Returns the next power of two, from 16 on, at most `longest`.

    >>> [bucket(n, 100) for n in (1, 17, 65, 100)]
    [16, 32, 100, 100]
    """
    size = SHORTEST_ROW
    while size < length:
        size *= 2
    return min(size, longest)


def padded(rows: Sequence[np.ndarray], batch: int, length: int) -> np.ndarray:
    """Returns the rows as int32 [batch, length], with zeros behind and below them."""
    ids = np.zeros([batch, length], np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids
