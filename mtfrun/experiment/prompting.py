"""How prompts become rows of ids: continued, or answered as inputs or behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mtfrun.data import INPUTS, TARGETS, Vocabulary

# Rows are made in lengths of powers of two from here on: a program is compiled for each.
SHORTEST_ROW = 16


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

    max_length: ids of prompt and output together.
    decode_length: ids that are made at most. A prompt that leaves no room for them, or for half of
        `max_length` if that is less, is read from its end backwards.
    """

    vocabulary: Vocabulary
    max_length: int
    decode_length: int

    @property
    def _kept(self) -> int:
        """The ids of a prompt that are read at most."""
        return self.max_length - min(self.decode_length, self.max_length // 2)

    def row(self, prompt: bytes) -> Row:
        encoded = self.vocabulary.encode(prompt)
        ids = encoded[-self._kept :]
        limit = min(len(ids) + self.decode_length, self.max_length)
        return Row(ids, len(ids), len(encoded) - len(ids), len(ids), limit)

    def lengths(self, row: Row) -> dict[str, int]:
        return {TARGETS: bucket(row.limit, self.max_length)}

    def features(
        self, rows: Sequence[Row], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        return {TARGETS: padded([row.ids for row in rows], batch, lengths[TARGETS])}

    def longest_prompt(self, lengths: Mapping[str, int]) -> int:
        length = lengths[TARGETS]
        # Rows that are shorter than `max_length` have room for all that is made.
        room = self.decode_length if length < self.max_length else 0
        return max(0, min(self._kept, length - room))


@dataclasses.dataclass(frozen=True)
class Answering:
    """A prompt is the inputs, read from its beginning, and the output is all of the targets.

    inputs_length, targets_length: ids at most, the end included.
    decode_length, multiplier, constant: the output has at most `decode_length` ids, and at most
        (ids of the inputs) * multiplier + constant.
    """

    vocabulary: Vocabulary
    inputs_length: int
    targets_length: int
    decode_length: int
    multiplier: float
    constant: int

    def row(self, prompt: bytes) -> Row:
        encoded = self.vocabulary.encode(prompt)
        kept = encoded[: self.inputs_length - 1]
        ids = np.append(kept, self.vocabulary.end_id).astype(np.int32)
        limit = int(len(ids) * self.multiplier + self.constant)
        limit = max(1, min(limit, self.decode_length, self.targets_length))
        return Row(ids, len(kept), len(encoded) - len(kept), 0, limit)

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
