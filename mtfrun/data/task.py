"""Tasks: a source, the preprocessors of its examples, and their vocabulary.

A list is fields "answers/0", "answers/1", ... of an example.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.features import TARGETS
from mtfrun.data.sources.source import TEXT, Example, Source
from mtfrun.data.vocabularies.vocabulary import Vocabulary

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


# All targets and all predictions, in that order, to values by name.
Metrics = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Task:
    """Examples of a source as ids, and metrics of predictions for them.

    Attributes:
      vocabulary: text to ids and back; one for all features, or one for each by name.
      preprocessors: functions of an example's fields, applied in order: they return other fields or
        any number of examples; a `StreamPreprocessor`, which reads all examples; or `BySplit`.
        Their `repr` identifies them in the cache and must not change between processes, so use
        classes with fields rather than lambdas.
      name: the task's name in metrics, messages and the cache; by default the source's.
      cache_dir: directory of all caches; by default $MTFRUN_CACHE_DIR, else ~/.cache/mtfrun.
      metrics: functions of all targets and all predictions, after `postprocess`, to values by name;
        by default the metrics of `experiment.DecodedPairs`.
      postprocess: maps each target's and prediction's text to the value that the metrics
        compare; by default the text.
      reference: maps the fields of each example to the value that the metrics compare its
        prediction with; by default `postprocess` of its target.
      labels: all texts that a target may be, for `experiment.RankedLabels`.
    """

    source: Source
    vocabulary: Vocabulary | Mapping[str, Vocabulary]
    preprocessors: Sequence[Preprocessor | StreamPreprocessor | BySplit] = ()
    name: str | None = None
    cache_dir: str | None = None
    metrics: Sequence[Metrics] = ()
    postprocess: Callable[[str], Any] = str
    labels: Sequence[str] = ()
    reference: Callable[[Fields], Any] | None = None

    @property
    def title(self) -> str:
        return self.name or self.source.title

    def vocabulary_of(self, feature: str) -> Vocabulary:
        if not isinstance(self.vocabulary, Mapping):
            return self.vocabulary
        if feature not in self.vocabulary:
            raise DataError(lacks("Task.vocabulary", "feature", feature, self.vocabulary))
        return self.vocabulary[feature]

    def reference_of(self, fields: Fields) -> Any:
        if self.reference is not None:
            return self.reference(fields)
        return self.postprocess(self.text_of(fields, TARGETS).decode("utf-8", "replace"))

    def examples(self, split: str) -> Iterator[Example]:
        examples = self.source.examples(split)
        for preprocess in self.preprocessors:
            if isinstance(preprocess, BySplit):
                preprocess = preprocess.train if split == "train" else preprocess.evaluation
            examples = _preprocess(preprocess, examples)
        yield from examples

    def texts(self, split: str, features: Sequence[str]) -> Iterator[tuple[bytes, ...]]:
        """Yields the texts of `features` of every example; parts of long texts one by one."""
        for fields, _ in self.examples(split):
            yield tuple(self.text_of(fields, feature) for feature in features)

    def text_of(self, fields: Fields, feature: str) -> bytes:
        if feature not in fields and feature == TARGETS and TEXT in fields:
            feature = TEXT
        if feature not in fields:
            message = lacks(f"{self.source}: an example", "field", feature, fields)
            raise DataError(f"{message}: add a preprocessor, such as @data.Rekey(), to the task")
        return fields[feature]


def _preprocess(
    preprocess: Preprocessor | StreamPreprocessor, examples: Iterator[Example]
) -> Iterator[Example]:
    if isinstance(preprocess, StreamPreprocessor):
        for fields in preprocess.process_all(example.fields for example in examples):
            yield Example(fields)
        return
    for example in examples:
        result = preprocess(example.fields)
        for fields in [result] if isinstance(result, Mapping) else result:
            yield Example(fields, example.is_whole)
