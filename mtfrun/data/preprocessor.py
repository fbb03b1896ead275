"""The interface of preprocessors, and those that rename, split, replace or filter fields.

A list is fields "answers/0", "answers/1", ... of an example.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mtfrun.data.errors import DataError, lacks

Fields = Mapping[str, bytes]
# Maps an example to one, several or no examples (an empty list).
Preprocessor = Callable[[Fields], Fields | Sequence[Fields]]

# The classes that JSON's truth values are.
_TRUTH_VALUES = {"false": "0", "true": "1"}


class StreamPreprocessor(abc.ABC):
    """A preprocessor that needs all examples of a split, for example to combine or count them."""

    @abc.abstractmethod
    def process_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
        """Yields new examples from all examples of a split, which can be read once."""


@dataclasses.dataclass(frozen=True)
class BySplit:
    """One preprocessor for the split "train", and another for all others."""

    train: Preprocessor | StreamPreprocessor
    evaluation: Preprocessor | StreamPreprocessor

    def for_split(self, split: str) -> Preprocessor | StreamPreprocessor:
        return self.train if split == "train" else self.evaluation


@dataclasses.dataclass(frozen=True)
class Rekey:
    """Renames fields by {new name: old name}, "" for an empty text, and omits all other fields."""

    mapping: Mapping[str, str | None]

    def __call__(self, fields: Fields) -> Fields:
        return {
            new: field_of(self, fields, old) if old else b"" for new, old in self.mapping.items()
        }


def field_of(preprocessor: object, fields: Fields, name: str) -> bytes:
    if name not in fields:
        raise DataError(lacks(f"{preprocessor}: an example", "field", name, fields))
    return fields[name]


def texts_of(fields: Fields, name: str) -> list[bytes]:
    """Returns the texts of a list, "name/0", "name/1", ..., or of a single field "name"."""
    if name in fields:
        return [fields[name]]
    names = itertools.takewhile(fields.__contains__, (f"{name}/{i}" for i in itertools.count()))
    return [fields[each] for each in names]


def label_name(preprocessor: object, label: bytes, names: Sequence[str]) -> bytes:
    """Returns the name of a class for its index, truth value or name, else DataError."""
    text = label.decode("utf-8", "replace")
    if text in names:
        return label
    text = _TRUTH_VALUES.get(text, text)
    if not text.isdecimal() or int(text) >= len(names):
        raise DataError(
            f'{preprocessor}: the label "{text}" is neither a name nor a number below {len(names)}'
        )
    return names[int(text)].encode()
