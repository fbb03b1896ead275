"""The interface of preprocessors, and those that rename, split, replace or filter fields.

A list is fields "answers/0", "answers/1", ... of an example.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.source import TEXT
from mtfrun.errors import did_you_mean

Fields = Mapping[str, bytes]
# Maps an example to one, several or no examples (an empty list).
Preprocessor = Callable[[Fields], Fields | Sequence[Fields]]

# The classes that JSON's truth values are.
_TRUTH_VALUES = {"false": "0", "true": "1"}


class StreamPreprocessor(abc.ABC):
    """A preprocessor that needs all examples of a split, for example to combine or count them."""

    @abc.abstractmethod
    def of_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
        """Yields new examples from all examples of a split, which can be read once."""


@dataclasses.dataclass(frozen=True)
class BySplit:
    """One preprocessor for the split "train", and another for all others."""

    train: Preprocessor | StreamPreprocessor
    evaluation: Preprocessor | StreamPreprocessor

    def of_split(self, split: str) -> Preprocessor | StreamPreprocessor:
        return self.train if split == "train" else self.evaluation


@dataclasses.dataclass(frozen=True)
class Rekey:
    """Renames fields by {new name: old name}, "" for an empty text, and omits all other fields."""

    mapping: Mapping[str, str | None]

    def __call__(self, fields: Fields) -> Fields:
        return {
            new: field_of(self, fields, old) if old else b"" for new, old in self.mapping.items()
        }


@dataclasses.dataclass(frozen=True)
class ParseTsv:
    """Splits the field `text` at its tabs into as many `fields`."""

    fields: Sequence[str] = (INPUTS, TARGETS)
    text: str = TEXT

    def __call__(self, fields: Fields) -> Fields:
        line = field_of(self, fields, self.text)
        values = line.split(b"\t")
        if len(values) != len(self.fields):
            start = line[:40].decode("utf-8", "replace")
            raise DataError(
                f"{self}: a text needs {len(self.fields) - 1} tab(s), between "
                f"{', '.join(self.fields)}; this one has {len(values) - 1}: {start!r}"
            )
        return dict(zip(self.fields, values, strict=True))


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """Replaces the index of a class by its name in the field `label_key`; a name stays."""

    names: Sequence[str]
    label_key: str = "label"

    def __call__(self, fields: Fields) -> Fields:
        label = field_of(self, fields, self.label_key)
        return {**fields, self.label_key: label_name(self, label, self.names)}


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Fields "first", "second" and "label" to inputs "first<tab>second" and targets.

    Tabs in the first text become spaces.

    Attributes:
      label_names: names by index, if the source returns indices; None for numbers.
    """

    label_names: Sequence[str] | None

    def __call__(self, fields: Fields) -> Fields:
        first, second, label = (field_of(self, fields, x) for x in ("first", "second", "label"))
        names = self.label_names
        return {
            INPUTS: first.replace(b"\t", b" ") + b"\t" + second,
            TARGETS: label if names is None else label_name(self, label, names),
        }


@dataclasses.dataclass(frozen=True)
class WordLabels:
    """Lists "words" and "labels" to inputs and targets with spaces, for `TokenClassificationData`.

    The source must read the lists: {"words": "tokens/*", "labels": "ner_tags/*"}.

    Attributes:
      label_names: names by index, if the source returns indices.
    """

    label_names: Sequence[str]

    def __call__(self, fields: Fields) -> Fields:
        words, labels = (texts_of(fields, name) for name in ("words", "labels"))
        for word in words:
            if word.split() != [word]:
                text = word.decode("utf-8", "replace")
                raise DataError(f"{self}: {text!r} is not one word: words have no spaces")
        names = [label_name(self, label, self.label_names) for label in labels]
        return {INPUTS: b" ".join(words), TARGETS: b" ".join(names)}


@dataclasses.dataclass(frozen=True)
class FilterByStringLength:
    """Leaves out examples in which a text is too short or too long, like T5's function.

    Attributes:
      min_length, max_length: bounds of the text's bytes, inclusive.
    """

    feature_key: str = TARGETS
    min_length: int = 1
    max_length: int = 1_000_000

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        length = len(field_of(self, fields, self.feature_key))
        return fields if self.min_length <= length <= self.max_length else []


def field_of(preprocessor: object, fields: Fields, name: str) -> bytes:
    if name not in fields:
        raise DataError(
            f'{preprocessor}: an example has no field "{name}"; it has '
            f"{', '.join(fields) or 'none'}{did_you_mean(name, fields)}"
        )
    return fields[name]


def texts_of(fields: Fields, name: str) -> list[bytes]:
    """Returns the texts of a list, "name/0", "name/1", ..., or of a single field "name"."""
    if name in fields:
        return [fields[name]]
    names = itertools.takewhile(fields.__contains__, (f"{name}/{i}" for i in itertools.count()))
    return [fields[each] for each in names]


def required_texts_of(preprocessor: object, fields: Fields, name: str) -> list[bytes]:
    texts = texts_of(fields, name)
    if not texts:
        raise DataError(
            f'{preprocessor}: an example has no text in "{name}"; it has '
            f'{", ".join(fields) or "none"}. The fields of a source read a list as "{name}/*"'
        )
    return texts


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
