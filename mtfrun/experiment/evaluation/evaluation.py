"""Evaluation of an experiment: the metrics of the model, and an interface for more."""

from __future__ import annotations

import abc
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

import numpy as np

from mtfrun.configuration.statements import Binding
from mtfrun.data import INPUTS, TARGETS, DataError, TextData
from mtfrun.data.images.image_data import LABELS
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.model_metrics import MetricMeans, ModelMetrics, Sums
from mtfrun.experiment.records import Progress, require
from mtfrun.experiment.saved_configuration import check_same_split
from mtfrun.metrics.charts import write_metrics
from mtfrun.metrics.event_files import Summaries
from mtfrun.models.resnet import CONFUSION_MATRIX
from mtfrun.rundir import RunDirectory

T = TypeVar("T")

BATCHES_AT_START = 32
"""Limit of the evaluation before the first step, so that training is not delayed."""

# Parameters that limit the examples of evaluators.
_LIMITS = ("num_decodes", "num_examples")


@dataclasses.dataclass(frozen=True)
class EvaluationContext:
    """An evaluation after the metrics of the model were computed.

    Attributes:
      metrics: means over the split.
      tables: sums over the split of metrics with two dimensions, such as a confusion matrix.
      is_shown: whether texts and images are written; otherwise they need not be made.
      progress: call it between batches with the number of finished inputs; may raise to stop.
    """

    metrics: Mapping[str, float]
    tables: Mapping[str, np.ndarray]
    is_shown: bool
    progress: Progress


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Results of an evaluator.

    Attributes:
      metrics: numbers by name, which are printed and drawn as curves.
      texts: Markdown by TensorBoard's tag.
      images: uint8 [height, width, 3] by TensorBoard's tag.
      records: outputs of the model with their targets, one JSON object each, for the run directory.
      files: texts by their path in the directory of the evaluation's summaries.
      examples: the number of examples of each of the metrics, and of the "split".
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    records: Sequence[Mapping[str, object]] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)


def prefix_task(task: str, values: Mapping[str, T]) -> dict[str, T]:
    """Returns metrics, texts or images of a task by the names "task/name"; as they are for ""."""
    return {f"{task}/{name}" if task else name: value for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Evaluator(abc.ABC):
    """Evaluates the model on a split; called with `experiment` and `split`, other fields from gin.

    If `uses_model`, it is skipped where the model's metrics are not finite.
    """

    uses_model: ClassVar[bool] = True

    experiment: Experiment
    split: str

    @abc.abstractmethod
    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns the results for the model's present weights."""

    def of_all_examples(self) -> Evaluator:
        """Returns the evaluator without a limit of the number of examples, if it has one."""
        return self


@dataclasses.dataclass(eq=False)
class Evaluation:
    """Evaluates the model of an experiment on a split of its data.

    The model's metrics are over all examples. If the data is a mixture of tasks, each task has
    them as well, as "task/loss".

    Attributes:
      batch_size: rows of a batch.
      split: the split of the data.
      max_batches: number of batches to evaluate, of every task; None for all. Their rows are a
        random choice that is the same every time.
      evaluators: classes of metrics and pictures besides the model's metrics, in order, each
        called with the experiment and the split.
      at_start: whether training evaluates a new run before its first step, on at most
        BATCHES_AT_START batches, so that curves begin with the initial weights, or with the
        checkpoint that the run starts from.
    """

    experiment: Experiment
    batch_size: int
    split: str = "validation"
    max_batches: int | None = None
    evaluators: Sequence[Callable[[Experiment, str], Evaluator]] = ()
    at_start: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        experiment = self.experiment
        experiment.check_batch(self.batch_size)
        check_range("Evaluation.max_batches", self.max_batches, COUNT, optional=True)
        self._evaluators = [evaluator(experiment, self.split) for evaluator in self.evaluators]
        self._model_metrics = ModelMetrics(
            experiment.model, experiment.mesh, bytes_per_id=experiment.data.bytes_per_id
        )

    def check_split(self) -> None:
        """Reads the first batch. Collective; DataError without one, InputError if data differ."""
        check_same_split(self.experiment.data, self.split)
        for data in self.experiment.data.by_task().values():
            batches = data.evaluation(self.batch_size, split=self.split)
            if next(batches, None) is None:
                raise DataError(f"split {self.split!r} has no batch to evaluate: choose another")

    def of_split(self, split: str) -> Evaluation:
        """Returns the evaluation of another split, with the same programs."""
        evaluators = [dataclasses.replace(evaluator, split=split) for evaluator in self._evaluators]
        return self._copy(split=split, _evaluators=evaluators)

    def of_all_examples(self) -> Evaluation:
        """Returns an evaluation whose evaluators have no limit, with the same programs."""
        return self._copy(_evaluators=[x.of_all_examples() for x in self._evaluators])

    def outside_training(self, bindings: Sequence[Binding], split: str | None = None) -> Evaluation:
        """Returns the evaluation of a split, None for the configuration's, with the same programs.

        Of a test split every example is decoded, although training decodes fewer of its split,
        unless a flag limits their number.
        """
        evaluation = self if split is None else self.of_split(split)
        is_limited = any(x.from_flag and x.parameter in _LIMITS for x in bindings)
        is_test = evaluation.split.partition("[")[0] == "test"
        return evaluation.of_all_examples() if is_test and not is_limited else evaluation

    def before_first_step(self) -> Evaluation:
        """Returns an evaluation of at most BATCHES_AT_START batches, with the same programs."""
        most = min(self.max_batches or BATCHES_AT_START, BATCHES_AT_START)
        return self._copy(max_batches=most)

    def _copy(self, **attributes: object) -> Evaluation:
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def is_brief(self, name: str) -> bool:
        """Returns whether a metric is not one of a single layer, whose name is a path."""
        task, _, metric = name.rpartition("/")
        return not task or (task in self.experiment.data.by_task() and bool(metric))

    def __call__(
        self,
        step: int,
        summaries: Summaries | None = None,
        before_batch: Callable[[], None] = lambda: None,
        run: RunDirectory | None = None,
        *,
        with_pictures: bool = True,
        details: dict[str, object] | None = None,
    ) -> dict[str, float]:
        """Returns the metrics for the model's present weights.

        Evaluators that use the model are skipped if its metrics are not finite.

        Args:
          step: the step of the metrics, texts and images that are written.
          summaries: their event files; None writes nothing.
          before_batch: called before every batch; may raise to stop.
          run: the directory of decodes and predictions; None stores none.
          with_pictures: whether `summaries` get texts and images besides metrics.
          details: gets values that are not metrics, as JSON: "examples" of the evaluators,
            "max_batches" if there is a limit, and the entries of `class_counts` for a classifier.
        """
        means, metrics = self._evaluate_model(step, before_batch)
        is_finite = all(map(math.isfinite, means.values.values()))
        is_shown = with_pictures and summaries is not None
        context = EvaluationContext(
            means.values, means.tables, is_shown, progress=lambda _: before_batch()
        )
        results = []
        for evaluator in self._evaluators:
            if is_finite or not evaluator.uses_model:
                with progress.waiting(f"evaluating {type(evaluator).__name__}"):
                    results.append(evaluator(context))
                    _check_result(evaluator, results[-1])
                metrics |= results[-1].metrics
        if details is not None:
            if examples := {name: n for x in results for name, n in x.examples.items()}:
                details["examples"] = examples
            if self.max_batches is not None:
                details["max_batches"] = self.max_batches
            if is_finite:
                with progress.waiting("counting predicted classes"):
                    details |= class_counts(
                        self.experiment, self.split, context.tables, context.progress
                    )
        records = [{"split": self.split, **record} for x in results for record in x.records]
        if run is not None and records:
            run.write_decodes(step, records)
        if summaries is not None:
            tasks = self.experiment.data.by_task()
            write_metrics(summaries, metrics, step, tasks=tasks, with_pictures=with_pictures)
            for result in results:
                for tag, text in result.texts.items():
                    summaries.text(tag, text, step)
                for tag, image in result.images.items():
                    summaries.image(tag, image, step)
                summaries.files(result.files)
            summaries.flush()
        return metrics

    def _evaluate_model(
        self, step: int, before_batch: Callable[[], None]
    ) -> tuple[MetricMeans, dict[str, float]]:
        infeeds = {
            name: self.experiment.evaluation_infeed(
                self.batch_size, self.split, self.max_batches, data=data
            )
            for name, data in self.experiment.data.by_task().items()
        }
        batches = sum(infeed.batches_left or 0 for infeed in infeeds.values())
        with progress.Work(f"evaluating step {step}", batches, "batches") as evaluating:
            begun = itertools.count()

            def begin_batch() -> None:
                before_batch()
                evaluating.move_to(next(begun))

            sums = {
                name: self._model_metrics.sums(infeed, begin_batch)
                for name, infeed in infeeds.items()
            }
            evaluating.advance()
        means = self._model_metrics.means(Sums.over(sums.values()))
        metrics = dict(means.values)
        for name, task_sums in sums.items():
            metrics |= prefix_task(name, self._model_metrics.means(task_sums).values)
        return means, metrics


CONFUSION, CLASS_ACCURACY = "confusion", "class_accuracy"

# The column of predictions that are not a label.
_OTHER = "(other)"


def _check_result(evaluator: Evaluator, result: object) -> None:
    """Raises InputError unless a user's evaluator returns what it must."""
    name = type(evaluator).__name__
    if not isinstance(result, EvaluationResult):
        what = f"{name} returned {type(result).__name__}"
        raise InputError(f"{what}: an evaluator returns an EvaluationResult")
    for metric, value in result.metrics.items():
        try:
            float(value)
        except (TypeError, ValueError):
            raise InputError(
                f"the metric {metric!r} of {name} is {value!r}: metrics are numbers"
            ) from None


def class_counts(
    experiment: Experiment, split: str, tables: Mapping[str, np.ndarray], progress: Progress
) -> dict[str, object]:
    """Returns "confusion" and "class_accuracy" of a classifier, as JSON; {} for other models.

    "confusion" has the "labels" and the "counts" [classes, predicted] over all examples of the
    split; where a text was predicted that is not a label, these have one more column. With any
    number of labels a text there are no counts; the accuracy of a label is the share of texts for
    which its presence is predicted correctly.
    """
    data = experiment.data
    if LABELS in data.class_names and CONFUSION_MATRIX in tables:
        return _as_json(tables[CONFUSION_MATRIX], data.class_names[LABELS])
    vocabulary = data.vocabularies.get(TARGETS)
    if vocabulary is None or not vocabulary.labels:
        return {}
    names = vocabulary.labels
    texts = require(data, TextData, "counting classes", "classify texts")
    examples = texts.evaluated_examples(split, None)
    records = experiment.inference.records([x[INPUTS] for x in examples], progress)
    if vocabulary.has_label_sets:
        is_right = [
            np.isin(np.arange(len(names)), vocabulary.encode(example[TARGETS]))
            == np.isin(np.arange(len(names)), vocabulary.encode(record.texts[0]))
            for example, record in zip(examples, records, strict=True)
        ]
        return {CLASS_ACCURACY: dict(zip(names, np.mean(is_right, axis=0).tolist(), strict=True))}
    numbers = {name: i for i, name in enumerate(names)}
    counts = np.zeros([len(names), len(names) + 1])
    for example, record in zip(examples, records, strict=True):
        target = example[TARGETS].decode("utf-8", "replace")
        # One label, or one for each word; words that are cut off have no prediction.
        pair = (target, record.texts[0])
        words = [pair] if target in numbers else zip(*map(str.split, pair), strict=False)
        for label, predicted in words:
            if label in numbers:
                counts[numbers[label], numbers.get(predicted, len(names))] += 1
    return _as_json(counts if counts[:, -1].any() else counts[:, :-1], names)


def _as_json(counts: np.ndarray, names: Sequence[str]) -> dict[str, object]:
    sizes, predicted = counts.sum(axis=1), [*names, _OTHER][: counts.shape[1]]
    return {
        CONFUSION: {"labels": predicted, "counts": np.rint(counts).astype(int).tolist()},
        CLASS_ACCURACY: {
            name: float(counts[i, i] / sizes[i]) for i, name in enumerate(names) if sizes[i]
        },
    }
