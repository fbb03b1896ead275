"""The base classes of sources: examples of a split, read one after another."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar

from mtfrun.data.errors import DataError
from mtfrun.data.sources.streams import LONGEST_PART, parts
from mtfrun.data.splits import check_split

# The field of sources of running text.
TEXT = "text"

T = TypeVar("T")


class Example(NamedTuple):
    """Fields as bytes by name, text in UTF-8, numbers in decimals.

    `is_whole` is False for a part of a text too long for memory, which the next example continues.
    """

    fields: Mapping[str, bytes]
    is_whole: bool = True


class SplitSource(abc.ABC, Generic[T]):
    """Examples in splits, in the same order every time; read once, for a cache.

    It need not be fast at random access, and must not hold all its examples in memory.
    """

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[T]:
        """Yields the examples of `split`, in order; a DataError names file and line."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> object:
        """Returns JSON that changes when the examples may have changed, without reading them.

        For files: their paths, sizes and times of change, and all settings. May raise DataError.
        """

    @property
    def title(self) -> str:
        """A short name, for messages and the names of caches."""
        return type(self).__name__

    def why_empty(self, split: str) -> str:
        """Returns why a split turned out to be empty, and the remedy."""
        return "choose another source or split"

    def check_split(self, split: str) -> None:
        check_split(str(self), split, self.splits)


class Source(SplitSource[Example]):
    """Texts, labels and numbers in splits."""

    def paths(self, split: str) -> Sequence[str]:
        """Returns the files that a split is read from; empty if the source does not read files."""
        return ()

    def expected_bytes(self, split: str) -> int | None:
        """Returns about how many bytes of text a split has, for progress; None: unknown."""
        return None


class MissingSource(SplitSource[T]):
    """The source of a configuration that names no data: it raises an error when it is read."""

    missing: ClassVar[str]
    remedy: ClassVar[str]

    @property
    def splits(self) -> tuple[str, ...]:
        return ()

    def check_split(self, split: str) -> None:
        raise DataError(
            f"the configuration names no {self.missing} to train on or to evaluate with: add a "
            f"file of data behind it, such as {self.remedy}"
        )

    def examples(self, split: str) -> Iterator[T]:
        self.check_split(split)
        return iter(())

    def fingerprint(self, split: str) -> object:
        self.check_split(split)
        return None


@dataclasses.dataclass(frozen=True)
class NoSource(MissingSource[Example], Source):
    """No examples: a model decodes and scores without any, and training says what is missing."""

    missing = "data"
    remedy = "--gin_file=data/tsv_pairs.gin, or set --gin.TRAINING_DATA"


def in_parts(fields: Mapping[str, bytes]) -> Iterator[Example]:
    """Yields an example; one whose only field is a long text in several parts."""
    if len(fields) == 1:
        ((name, text),) = fields.items()
        if len(text) > LONGEST_PART:
            for part, is_whole in parts([text]):
                yield Example({name: part}, is_whole)
            return
    yield Example(fields)
