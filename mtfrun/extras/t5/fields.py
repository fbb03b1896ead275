"""T5's preprocessors that parse, name or filter fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.source import TEXT
from mtfrun.data.task import Fields, field_of, label_name, texts_of


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
                f"{self}: a text has {len(values) - 1} tab(s), not {len(self.fields) - 1}, between "
                f"{', '.join(self.fields)}: {start!r}"
            )
        return dict(zip(self.fields, values, strict=True))


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """Replaces class indices in the field `label_key` by names; names stay."""

    names: Sequence[str]
    label_key: str = "label"

    def __call__(self, fields: Fields) -> Fields:
        label = field_of(self, fields, self.label_key)
        return {**fields, self.label_key: label_name(self, label, self.names)}


@dataclasses.dataclass(frozen=True)
class FilterByStringLength:
    """Drops examples with a text that is too short or too long, like T5's function.

    Attributes:
      min_length, max_length: the inclusive bounds of the text's bytes.
    """

    feature_key: str = TARGETS
    min_length: int = 1
    max_length: int = 1_000_000

    def __call__(self, fields: Fields) -> Fields | Sequence[Fields]:
        length = len(field_of(self, fields, self.feature_key))
        return fields if self.min_length <= length <= self.max_length else []


def index_of(preprocessor: object, fields: Fields, name: str, indices: range, what: str) -> int:
    text = field_of(preprocessor, fields, name).decode("utf-8", "replace")
    if not text.isdecimal() or int(text) not in indices:
        raise DataError(f'{preprocessor}: the field "{name}" is {text!r}, not the index of {what}')
    return int(text)


def required_texts_of(preprocessor: object, fields: Fields, name: str) -> list[bytes]:
    texts = texts_of(fields, name)
    if not texts:
        raise DataError(
            f'{preprocessor}: an example has no text in "{name}"; it has {", ".join(fields)}: the '
            f'fields of a source read a list as "{name}/*"'
        )
    return texts
