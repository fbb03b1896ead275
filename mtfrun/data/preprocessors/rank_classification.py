"""Choices among texts as an example for each of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessors.preprocessor import (
    Fields,
    StreamPreprocessor,
    field_of,
    label_name,
    required_texts_of,
)
from mtfrun.data.sources.record_fields import list_fields

_MODES = ("train", "eval")
_KEY = re.compile(r"\{([^\s{}]+)\}")


@dataclasses.dataclass(frozen=True)
class RankClassification(StreamPreprocessor):
    """An example for each class, or for the right ones, whose texts are made of formats.

    With `inputs_formats="{premise} What is the {question}? X"` and `targets_formats=["I think
    {choice1}.", "I think {choice2}."]` an example of COPA becomes two, of which "is_correct" is
    "True" and "False". "idx/0" is the number of the example, "idx/1" that of the class.

    Attributes:
      inputs_formats, targets_formats: a text, or one for each class; one of the two is a list.
        A name in braces is the field of that name.
      mode: "eval" for all classes, "train" for the right ones.
      label_key: the field of the number or name of the right class, or a list of them.
      label_names: of the classes by number, for a source whose labels are names.
      weight_key: a field that every example has as "weight".
      passthrough: fields that every example has by their own names.
    """

    inputs_formats: str | Sequence[str]
    targets_formats: str | Sequence[str]
    mode: str = "eval"
    label_key: str = "label"
    label_names: Sequence[str] | None = None
    weight_key: str | None = None
    passthrough: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise DataError(f'RankClassification: mode="{self.mode}" is none of {_MODES}')
        formats = (self.inputs_formats, self.targets_formats)
        counts = {len(each) for each in formats if not isinstance(each, str)}
        if len(counts) != 1:
            raise DataError(
                "RankClassification: one of inputs_formats and targets_formats is a list with a "
                "text for each class; if both are, they have equal lengths"
            )

    def of_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
        """Yields inputs, targets, "is_correct", "idx/0", "idx/1", and the chosen other fields."""
        for number, fields in enumerate(examples):
            yield from self._of_one(number, fields)

    def _of_one(self, number: int, fields: Fields) -> Iterator[Fields]:
        formats = [self.inputs_formats, self.targets_formats]
        (count,) = {len(each) for each in formats if not isinstance(each, str)}
        inputs, targets = ([x] * count if isinstance(x, str) else x for x in formats)
        names = self.label_names or [str(i) for i in range(count)]
        labels = required_texts_of(self, fields, self.label_key)
        right = {label if label == b"-1" else label_name(self, label, names) for label in labels}
        more = {name: field_of(self, fields, name) for name in self.passthrough}
        if self.weight_key is not None:
            more["weight"] = field_of(self, fields, self.weight_key)
        for i in range(count):
            is_correct = names[i].encode() in right
            if is_correct or self.mode == "eval":
                yield {
                    INPUTS: self._formatted(inputs[i], fields),
                    TARGETS: self._formatted(targets[i], fields),
                    "is_correct": str(is_correct).encode(),
                    **list_fields("idx", [b"%d" % number, b"%d" % i]),
                    **more,
                }

    def _formatted(self, text: str, fields: Fields) -> bytes:
        parts = _KEY.split(text)
        # Text and names alternate.
        return b"".join(
            field_of(self, fields, part) if i % 2 else part.encode() for i, part in enumerate(parts)
        )
