"""Preprocessors of labelled pairs and of labelled words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessor import Fields, field_of, label_name, texts_of


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Maps "first", "second" and "label" to inputs "first<tab>second" and targets.

    Tabs in the first text become spaces.

    Attributes:
      label_names: the labels' names, if the source returns indices; None for numbers.
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
    """Joins the lists "words" and "labels" with spaces, for `TokenClassificationData`.

    The source must read the lists: {"words": "tokens/*", "labels": "ner_tags/*"}.

    Attributes:
      label_names: the labels' names, if the source returns indices.
    """

    label_names: Sequence[str]

    def __call__(self, fields: Fields) -> Fields:
        words, labels = (texts_of(fields, name) for name in ("words", "labels"))
        for word in words:
            if word.split() != [word]:
                text = word.decode("utf-8", "replace")
                raise DataError(f"{self}: {text!r} is not one word")
        names = [label_name(self, label, self.label_names) for label in labels]
        return {INPUTS: b" ".join(words), TARGETS: b" ".join(names)}
