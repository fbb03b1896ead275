"""Interface of sources of documents."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from mtfrun.data.errors import DataError
from mtfrun.data.reading import reading
from mtfrun.errors import did_you_mean


class TextSource(Protocol):
    """Documents in splits. The order of a split's documents is the same every time."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    def documents(self, split: str) -> tf.data.Dataset:
        """Returns the documents of `split`, in order, once, as string scalars.

        Raises:
          DataError: they do not exist.
        """


def read_bytes(source: TextSource, split: str) -> bytes:
    """Returns the concatenated documents of `split`."""
    with reading(source):
        return b"".join(source.documents(split).as_numpy_iterator())


def check_split(source_name: str, split: str, splits: tuple[str, ...]) -> None:
    """Raises DataError unless `split` is one of `splits`."""
    if split not in splits:
        raise DataError(
            f'{source_name} has no split "{split}"; it has {", ".join(splits)}'
            f"{did_you_mean(split, splits)}"
        )
