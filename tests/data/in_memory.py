"""Data of texts in memory, and caches of their tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mtfrun import data
from mtfrun.data.cache.tokens import TokenCache

# Rows find no stored plan there, and cannot store one.
NOWHERE = Path("/dev/null/cache")


def token_cache(
    examples: Sequence[Sequence[Sequence[int]]], features: Sequence[str], directory: Path = NOWHERE
) -> TokenCache:
    texts = [text for example in examples for text in example]
    tokens = np.array([token for text in texts for token in text], np.uint16)
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    shape = (len(examples), len(features))
    manifest = {"features": list(features), "files": {"tokens.bin": "", "ends.npy": ""}}
    return TokenCache(directory, tokens, ends.reshape(shape), manifest)


VOCABULARY = data.ByteVocabulary()


@dataclasses.dataclass(frozen=True)
class InMemory(data.Source):
    """The same examples in every split.

    Attributes:
      rows: the texts of the fields of every example.
      fields: their names.
    """

    rows: tuple[tuple[bytes, ...], ...]
    fields: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "validation")

    def examples(self, split: str) -> Iterator[data.Example]:
        self.check_split(split)
        for row in self.rows:
            yield data.Example(dict(zip(self.fields, row, strict=True)))

    def fingerprint(self, split: str) -> object:
        self.check_split(split)
        return repr(self.rows)


def texts_task(texts: Iterable[bytes]) -> data.Task:
    return data.Task(InMemory(tuple((text,) for text in texts), ("text",)), VOCABULARY)


def pairs_task(pairs: Iterable[tuple[str, str]]) -> data.Task:
    rows = tuple((inputs.encode(), targets.encode()) for inputs, targets in pairs)
    return data.Task(InMemory(rows, ("inputs", "targets")), VOCABULARY)


def numbered_pairs(count: int) -> tuple[tuple[str, str], ...]:
    return tuple((str(i), "x" * (i % 9)) for i in range(count))
