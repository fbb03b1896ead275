"""Rows of two texts, "first end second end", and the types of their ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.prompts import PromptRow
from mtfrun.data.rows.batches import Places, Rows
from mtfrun.data.vocabularies.vocabulary import NO_END, Vocabulary

TYPES = "inputs_types"
# The shortest row has two texts and their ends.
SHORTEST_JOINED = 8


class JoinedRow(NamedTuple):
    """The ids of two texts and their ends, and of each its type: 1 behind the first text's ends."""

    ids: np.ndarray
    types: np.ndarray


class TextJoiner:
    """Makes rows of at most `length` ids, with `separators` ends behind the first text."""

    def __init__(self, vocabulary: Vocabulary, length: int, separators: int) -> None:
        self.vocabulary, self.length, self.separators = vocabulary, length, separators
        self._begin = len(vocabulary.encode(""))
        if vocabulary.end_id == NO_END:
            raise DataError(f"{vocabulary!r} has no end, which divides a row of two texts")

    @property
    def num_ends(self) -> int:
        return self.separators + 1

    def strip_begin(self, ids: np.ndarray) -> np.ndarray:
        """Returns the ids of a text without what the vocabulary puts before every text."""
        return ids[self._begin :]

    def room(self, first: np.ndarray) -> int:
        """Returns how many ids a text behind this one may have."""
        return self.length - len(first) - self.num_ends

    def cut(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the beginnings of both texts that fit into a row; the longer text loses more.

        With the sizes that `truncation=True` of transformers' fast tokenizers leaves: an odd id is
        the longer text's, or the second's if they are as long.
        """
        sizes = len(first) - self._begin, len(second)
        room = self.length - self._begin - self.num_ends
        if sum(sizes) <= room:
            return first, second
        shorter = min(*sizes, room // 2)
        longer = room - shorter
        of_first, of_second = (longer, shorter) if sizes[0] > sizes[1] else (shorter, longer)
        return first[: self._begin + of_first], second[:of_second]

    def join(self, first: np.ndarray, second: np.ndarray) -> JoinedRow:
        """Returns int32 ids and types; a text may contain the end itself."""
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
        """Returns the row of those parts of two texts that fit; `limit` is of outputs, by ids."""
        ids, types = self.join(*parts)
        read = len(ids) - self.num_ends
        return PromptRow(ids, read, sum(map(len, texts)) - read, 0, limit(len(ids)), types)


class JoinedRows(Rows):
    """One example of a cache a row; subclasses join its texts."""

    def __init__(self, cache: TokenCache, joiner: TextJoiner) -> None:
        self._cache, self._joiner = cache, joiner

    def __len__(self) -> int:
        return len(self._cache)

    def find(self, examples: np.ndarray) -> Places:
        return Places(np.arange(len(examples)), examples, np.zeros_like(examples))

    def _texts(self, example: int) -> list[np.ndarray]:
        """Returns the ids of each text of an example, without its end."""
        stops = self._cache.ends[example]
        first = self._cache.ends[example - 1, -1] if example else 0
        starts = [first, *stops[:-1]]
        return [
            self._cache.tokens[start : stop - 1] for start, stop in zip(starts, stops, strict=True)
        ]
