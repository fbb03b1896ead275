"""The source of a configuration that names no data yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from mtfrun.data.errors import DataError
from mtfrun.data.sources.source import Example, Source


@dataclasses.dataclass(frozen=True)
class NoSource(Source):
    """No examples: a model decodes and scores without any, and training says what is missing.

    Raises:
      DataError: examples are read.
    """

    @property
    def splits(self) -> tuple[str, ...]:
        """None."""
        return ()

    def examples(self, split: str) -> Iterator[Example]:
        """Raises DataError."""
        raise _no_data()

    def fingerprint(self, split: str) -> object:
        """Raises DataError."""
        raise _no_data()

    def check_split(self, split: str) -> None:
        """Raises DataError."""
        raise _no_data()


def _no_data() -> DataError:
    return DataError(
        "the configuration names no data to train on or to evaluate with: add a file of data "
        "behind it, such as --gin_file=data/tsv_pairs.gin, or set --gin.TRAINING_DATA"
    )
