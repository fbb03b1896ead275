"""Preprocessors that rename, split, replace or filter fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessors.preprocessor import Fields, field_of, label_name
from mtfrun.data.sources.source import TEXT


@dataclasses.dataclass(frozen=True)
class Rekey:
    """Renames fields by {new name: old name}, "" for an empty text, and omits all other fields."""

    mapping: Mapping[str, str | None]

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {
            new: field_of(self, fields, old) if old else b"" for new, old in self.mapping.items()
        }


@dataclasses.dataclass(frozen=True)
class ParseTsv:
    """Splits the field `text` at its tabs into `fields`."""

    fields: Sequence[str] = (INPUTS, TARGETS)
    text: str = TEXT

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Raises DataError if the number of values is not the number of `fields`."""
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
    """Replaces the index of a class by its name in the field `label_key`; names do not change."""

    names: Sequence[str]
    label_key: str = "label"

    def __call__(self, fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Raises DataError for a label that is neither a name nor an index."""
        label = field_of(self, fields, self.label_key)
        return {**fields, self.label_key: label_name(self, label, self.names)}


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
