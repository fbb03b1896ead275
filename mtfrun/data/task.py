"""Tasks: a source, the preprocessors of its examples, and their vocabulary; mixtures of tasks.

A list is fields "answers/0", "answers/1", ... of an example.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.features import TARGETS
from mtfrun.data.sources.source import TEXT, Example, Source
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import COUNT, POSITIVE, check_fields, check_range

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


@dataclasses.dataclass(frozen=True)
class ProportionalToExamples:
    """A task's rate by its size: min(examples * scale, maximum) ** (1 / temperature).

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.5.2: "examples-proportional" and
    "temperature-scaled mixing".

    Attributes:
      scale: a factor of the number of examples.
      maximum: the limit of that product, so that a large task does not displace the small ones.
      temperature: 1 mixes in proportion to sizes; higher values make rates more equal.

    Examples:
      >>> ProportionalToExamples(maximum=10_000, temperature=2.0)(1_000_000)
      100.0
    """

    scale: float = 1.0
    maximum: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "scale", "temperature")
        check_fields(self, POSITIVE, "maximum", optional=True)

    def __call__(self, examples: int) -> float:
        size = examples * self.scale
        if self.maximum is not None:
            size = min(size, self.maximum)
        return float(size ** (1.0 / self.temperature))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks of the same features and vocabularies, mixed in training.

    Every stretch of training has its share of each task, see `Mixing`; an evaluation reads each
    task by itself. An example is a pair of texts, or a row of running text. A row of packed pairs
    counts as the number of examples that it holds on average.

    Attributes:
      tasks: tasks of different names.
      rates: how often examples of each task are drawn, relative to each other; or a function of a
        task's number of examples.
      max_epochs: the number of epochs after which a task is no longer drawn, by task name; at least
        one task has no such limit.
      name: the name by which `choose` finds it.
    """

    tasks: Sequence[Task]
    rates: Sequence[float] | Callable[[int], float] = ProportionalToExamples()
    max_epochs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    name: str = "mixture"

    def __post_init__(self) -> None:
        if not self.tasks:
            raise DataError(f"{self._who}.tasks is empty: name one task or more")
        titles = [task.title for task in self.tasks]
        repeated = [name for name, count in collections.Counter(titles).items() if count > 1]
        if repeated:
            name = repeated[0]
            raise DataError(f'{self._who}: several tasks have the name "{name}": set Task.name')
        rates = () if callable(self.rates) else self.rates
        if not callable(self.rates) and len(rates) != len(titles):
            counts = f"{len(rates)} rates for {len(titles)} tasks"
            remedy = "give one for each, or @data.ProportionalToExamples()"
            raise DataError(f"{self._who}: {counts}: {remedy}")
        for title, rate in zip(titles, rates, strict=False):
            name = f'{self._who}: the rate of "{title}"'
            check_range(name, rate, POSITIVE, remedy="leave the task out to not train on it")
        for name, epochs in self.max_epochs.items():
            if name not in titles:
                raise DataError(lacks(f"{self._who}, for max_epochs,", "task", name, titles))
            check_range(f'{self._who}.max_epochs of "{name}"', epochs, COUNT)
        if len(self.max_epochs) == len(titles):
            remedy = "leave one without, and bound the training with TRAIN_STEPS"
            raise DataError(f"{self._who}.max_epochs bounds every task: {remedy}")

    @property
    def title(self) -> str:
        return self.name

    @property
    def names(self) -> Sequence[str]:
        """The names of the tasks in metrics: "" for a single task."""
        return [task.title for task in self.tasks] if len(self.tasks) > 1 else [""]

    def example_rates(self, examples: Sequence[int]) -> Sequence[float]:
        if callable(self.rates):
            return [self.rates(count) for count in examples]
        return self.rates

    def vocabulary_of(self, feature: str) -> Vocabulary:
        """Returns the vocabulary of "inputs" or "targets", the same for all tasks."""
        first, *further = self.tasks
        vocabulary = first.vocabulary_of(feature)
        for task in further:
            if task.vocabulary_of(feature).fingerprint != vocabulary.fingerprint:
                names = f'the tasks "{first.title}" and "{task.title}"'
                rule = f"different vocabularies for {feature}: one model reads one"
                raise DataError(f"{self._who}: {names} have {rule}")
        return vocabulary

    @property
    def _who(self) -> str:
        return f'Mixture "{self.name}"'


Tasks = Task | Mixture
"""A task, or several that are mixed."""


def feature_length(lengths: Mapping[str, int], feature: str) -> int:
    """Returns one of T5's `TASK_FEATURE_LENGTHS`, for gin files."""
    if feature not in lengths:
        raise DataError(lacks("TASK_FEATURE_LENGTHS", "length of", feature, lengths))
    return lengths[feature]


def choose(name: str, tasks: Sequence[Tasks]) -> Tasks:
    """Returns the task or mixture of a title; for gin files that name one by a macro."""
    names = [one.title for one in tasks]
    if name not in names:
        raise DataError(lacks("the configuration", "task or mixture", name, names))
    return tasks[names.index(name)]
