"""References and values of predictions for T5's metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mtfrun.data.errors import DataError
from mtfrun.data.features import TARGETS
from mtfrun.data.task import Fields, field_of
from mtfrun.extras.t5.fields import required_texts_of


class GroupedReference(NamedTuple):
    """A reference, and the fields that identify its group."""

    group: tuple[bytes, ...]
    value: Any


class PossibleReferent(NamedTuple):
    """A noun phrase, and whether the pronoun refers to it."""

    text: str
    is_correct: bool


class RankedClass(NamedTuple):
    """A class of an example; `idx` is the example's number and the class."""

    idx: tuple[int, ...]
    is_correct: bool
    weight: float


@dataclasses.dataclass(frozen=True)
class Target:
    """The target, after `postprocess`."""

    postprocess: Callable[[str], Any] = str

    def __call__(self, fields: Fields) -> Any:
        return self.postprocess(field_of(self, fields, TARGETS).decode("utf-8", "replace"))


@dataclasses.dataclass(frozen=True)
class Grouped:
    """References for metrics over groups of examples.

    Attributes:
      by: the fields that identify a group.
      value: the function from an example to its reference.
    """

    by: Sequence[str]
    value: Callable[[Fields], Any] = Target()

    def __call__(self, fields: Fields) -> GroupedReference:
        return GroupedReference(
            tuple(field_of("t5.Grouped", fields, name) for name in self.by), self.value(fields)
        )


def all_answers(fields: Fields) -> list[str]:
    """Returns "answers/0", "answers/1", ... of `Squad` and `Record`."""
    texts = required_texts_of("t5.all_answers", fields, "answers")
    return [text.decode("utf-8", "replace") for text in texts]


def possible_referent(fields: Fields) -> PossibleReferent:
    """Returns the target of `WscSimple` and its label, "True" or "False"."""
    text = field_of("t5.possible_referent", fields, TARGETS)
    label = field_of("t5.possible_referent", fields, "label")
    return PossibleReferent(text.decode("utf-8", "replace"), label == b"True")


def ranked_class(fields: Fields) -> RankedClass:
    """Returns the class of an example of `RankClassification`; its weight is 1 by default."""
    who = "t5.ranked_class"
    idx = required_texts_of(who, fields, "idx")
    try:
        return RankedClass(
            tuple(map(int, idx)),
            field_of(who, fields, "is_correct") == b"True",
            float(fields.get("weight", b"1")),
        )
    except ValueError as error:
        raise DataError(f'{who}: "idx" or "weight" of an example is not a number') from error


@dataclasses.dataclass(frozen=True)
class LabelNumber:
    """Maps a text to the index of its label, or -1.

    Attributes:
      labels: the texts, by index.
      strip: whether spaces around a text are ignored; T5 does not.
    """

    labels: Sequence[str]
    strip: bool = True

    def __call__(self, text: str) -> int:
        text = text.strip() if self.strip else text
        return self.labels.index(text) if text in self.labels else -1


@dataclasses.dataclass(frozen=True)
class Number:
    """Maps a text to a number, for correlations.

    Attributes:
      default: the number for other texts, infinity and NaN.
    """

    default: float = -1.0

    def __call__(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            return self.default
        return number if math.isfinite(number) else self.default
