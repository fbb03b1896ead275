"""Mixtures of tasks, their rates, and the choice of a task or mixture by name."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.task import Task
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import COUNT, POSITIVE, check_fields, check_range


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
        if not callable(self.rates):
            if len(self.rates) != len(self.tasks):
                counts = f"{len(self.rates)} rates for {len(self.tasks)} tasks"
                remedy = "give one for each, or @data.ProportionalToExamples()"
                raise DataError(f"{self._who}: {counts}: {remedy}")
            for title, rate in zip(titles, self.rates, strict=True):
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

    @property
    def epoch_limits(self) -> Sequence[int | None]:
        return [self.max_epochs.get(task.title) for task in self.tasks]

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


def mixture_of(tasks: Tasks) -> Mixture:
    return tasks if isinstance(tasks, Mixture) else Mixture([tasks], name=tasks.title)


def feature_length(lengths: Mapping[str, int], feature: str) -> int:
    """Returns one of T5's `TASK_FEATURE_LENGTHS`, for gin files."""
    if feature not in lengths:
        raise DataError(lacks("TASK_FEATURE_LENGTHS", "length of", feature, lengths))
    return lengths[feature]


def choose(name: str, tasks: Sequence[Tasks]) -> Tasks:
    names = [one.title for one in tasks]
    if name not in names:
        raise DataError(lacks("the configuration", "task or mixture", name, names))
    return tasks[names.index(name)]
