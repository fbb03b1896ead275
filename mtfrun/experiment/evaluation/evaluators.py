"""Evaluators: entropies, decodes against references, the likeliest label, samples, predictions."""

from __future__ import annotations

import abc
import dataclasses
import functools
import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np

from mtfrun.data import INPUTS, TARGETS, DataError, Fields, ImageData, TextData
from mtfrun.data.task import Metrics
from mtfrun.display import pictures
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import (
    EvaluationContext,
    EvaluationResult,
    Evaluator,
    prefix_task,
)
from mtfrun.experiment.inference.scoring import Score
from mtfrun.experiment.records import Images, Record, require
from mtfrun.metrics.entropy import conditional_entropy
from mtfrun.metrics.task_metrics import text_metrics, token_accuracy
from mtfrun.models.resnet import CONFUSION_MATRIX

# Number of decodes that TensorBoard shows.
SHOWN_DECODES = 10
# The number of all examples, among the metrics.
SPLIT = "split"
# Pairs that are scored between two reports of progress.
_PAIRS_PER_CALL = 1024
# Characters with a meaning in Markdown, in cells of tables too.
_SPECIAL = re.compile(r"[\\`*_{}\[\]()#+\-.!|~$:]")
_MOST_CHARACTERS = 1000


@dataclasses.dataclass(frozen=True)
class Entropies(Evaluator):
    """Conditional entropies of the text: baselines for a model's bits per byte.

    Attributes:
      orders: numbers of preceding bytes; for each, the entropy of the split's bytes given them, as
        "order_2_entropy".
    """

    uses_model: ClassVar[bool] = False

    orders: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.orders and not self._data.has_text:
            what = f"Entropies.orders={self.orders} needs running text"
            raise InputError(f"{what}, which {type(self._data).__name__} is not: set it to []")

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        return EvaluationResult(metrics=self._entropies)

    @property
    def _data(self) -> TextData:
        who = f"Entropies.orders={self.orders}"
        return require(self.experiment.data, TextData, who, "set it to []")

    @functools.cached_property
    def _entropies(self) -> dict[str, float]:
        if not self.orders:
            return {}
        text = self._data.text(self.split)
        return {f"order_{order}_entropy": conditional_entropy(text, order) for order in self.orders}


@dataclasses.dataclass(frozen=True)
class TextEvaluator(Evaluator):
    """Evaluates examples of text; every task of a mixture has metrics by itself."""

    number: ClassVar[str]
    """The field with the number of examples of every task: 0 for none, None for all."""

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        metrics: dict[str, float] = {}
        texts: dict[str, str] = {}
        saved: list[Mapping[str, object]] = []
        numbers: dict[str, int] = {}
        for name, examples in self.examples.items():
            data = self.parts[name]
            result = self.evaluate_task(data, examples, context)
            in_split = sum(cached.counts["examples"] for cached in data.caches(self.split))
            counts = {**dict.fromkeys(result.metrics, len(examples)), SPLIT: in_split}
            numbers |= prefix_task(name, counts)
            metrics |= prefix_task(name, result.metrics)
            texts |= prefix_task(name, result.texts)
            saved += [{"task": name, **record} if name else record for record in result.records]
        return EvaluationResult(metrics, texts, records=saved, examples=numbers)

    @abc.abstractmethod
    def evaluate_task(
        self, data: TextData, examples: Sequence[Fields], context: EvaluationContext
    ) -> EvaluationResult:
        """Returns metrics, texts and records of the examples of one task."""

    def of_all_examples(self) -> Self:
        no_limit: dict[str, Any] = {self.number: None}
        is_off = getattr(self, self.number) == 0
        return self if is_off else dataclasses.replace(self, **no_limit)

    @functools.cached_property
    def parts(self) -> dict[str, TextData]:
        who = f"{type(self).__name__}.{self.number}={getattr(self, self.number)}"
        data = self.experiment.data.by_task()
        return {name: require(x, TextData, who, "leave it out") for name, x in data.items()}

    @functools.cached_property
    def examples(self) -> dict[str, list[Fields]]:
        count = getattr(self, self.number)
        parts = {} if count == 0 else self.parts
        return {name: x.evaluated_examples(self.split, count) for name, x in parts.items()}


@dataclasses.dataclass(frozen=True)
class DecodedPairs(TextEvaluator):
    """Metrics of decodes against their targets; TensorBoard shows the first ones.

    Attributes:
      num_decodes: number of pairs of every task, the same every time; 0 for none, None for all.
      metrics: functions of all targets and all predictions that return metrics by name, besides
        "token_accuracy": for data whose task has none. A metric of the same name as one of the
        model's replaces that.
      num_saved: number of decodes of every task that decodes/eval_STEP.jsonl keeps; None for all,
        which gives tables of sweeps an interval over examples.
    """

    number = "num_decodes"

    num_decodes: int | None = 0
    metrics: Sequence[Metrics] = (text_metrics,)
    num_saved: int | None = 100

    def __post_init__(self) -> None:
        if self.num_decodes != 0 and not all(data.has_pairs for data in self.parts.values()):
            what = f"DecodedPairs.num_decodes={self.num_decodes} needs pairs"
            raise InputError(f"{what} to compare outputs with: set it to 0")

    def evaluate_task(
        self, data: TextData, examples: Sequence[Fields], context: EvaluationContext
    ) -> EvaluationResult:
        records = self.experiment.inference.records([x[INPUTS] for x in examples], context.progress)
        inputs, targets = (
            [example[name].decode("utf-8", "replace") for example in examples]
            for name in (INPUTS, TARGETS)
        )
        outputs = [record.texts[0] for record in records]
        task = data.evaluated_task
        values = list(map(task.reference_of, examples)), list(map(task.postprocess, outputs))
        metrics: dict[str, float] = {}
        for metrics_of in task.metrics or self.metrics:
            found: object = metrics_of(*values)
            if not isinstance(found, Mapping):
                name = getattr(metrics_of, "__name__", repr(metrics_of))
                raise InputError(
                    f"the metric {name} returned {found!r}: return a dict of numbers by name"
                )
            metrics |= found
        encode = data.vocabulary.encode
        metrics["token_accuracy"] = token_accuracy(
            [encode(text) for text in targets], [encode(text) for text in outputs]
        )
        rows = [
            [x, target, output, "yes" if output == target else "no"]
            for x, target, output in zip(inputs, targets, outputs, strict=True)
        ]
        shown = markdown_table(["input", "target", "output", "equal"], rows[:SHOWN_DECODES])
        saved = [
            {"input": x, "target": target, "output": output, **_numbers(record)}
            for (x, target, output, _), record in zip(rows[: self.num_saved], records, strict=False)
        ]
        return EvaluationResult(metrics, texts={"decodes": shown}, records=saved)


@dataclasses.dataclass(frozen=True)
class RankedLabels(TextEvaluator):
    """The share of examples whose target is the likeliest of the task's labels.

    Every label is scored as the target of the inputs; the log-likelihood is of all its tokens
    and the end. Unlike a decode, the prediction is always a label. ("Rank classification", Brown et
    al. 2020, https://arxiv.org/abs/2005.14165, section 2.4.) Tasks without `labels` are left out.

    Attributes:
      num_examples: number of examples of every task, the same every time; 0 for none, None for all.
    """

    number = "num_examples"

    num_examples: int | None = 0

    def __post_init__(self) -> None:
        if self.num_examples != 0 and not self.parts:
            what = f"RankedLabels.num_examples={self.num_examples} needs a task with labels"
            raise InputError(f"{what}: set Task.labels")

    @functools.cached_property
    def parts(self) -> dict[str, TextData]:
        parts = super().parts.items()
        return {name: x for name, x in parts if x.has_pairs and x.evaluated_task.labels}

    def evaluate_task(
        self, data: TextData, examples: Sequence[Fields], context: EvaluationContext
    ) -> EvaluationResult:
        labels = [label.encode() for label in data.evaluated_task.labels]
        wrong = next((x[TARGETS] for x in examples if x[TARGETS] not in labels), None)
        if wrong is not None:
            text = wrong.decode("utf-8", "replace")
            raise DataError(f'the target "{text}" is none of Task.labels: add it')
        choices = [(example[INPUTS], label) for example in examples for label in labels]
        scores = [x.log_likelihood for x in score_pairs(self, choices, context)]
        likeliest = np.argmax(np.reshape(scores, [-1, len(labels)]), axis=1)
        targets = [labels.index(example[TARGETS]) for example in examples]
        return EvaluationResult({"ranked_accuracy": float(np.mean(np.equal(targets, likeliest)))})


@dataclasses.dataclass(frozen=True)
class Samples(Evaluator):
    """Decodes of some prompts, which TensorBoard shows."""

    prompts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.prompts:
            require(self.experiment.data, TextData, "Samples.prompts", "set it to []")

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        if not self.prompts or not context.is_shown:
            return EvaluationResult()
        records = self.experiment.inference.records(
            [prompt.encode() for prompt in self.prompts], context.progress
        )
        rows = [[x, y.texts[0]] for x, y in zip(self.prompts, records, strict=True)]
        saved = [
            {"input": prompt, "output": output, **_numbers(record)}
            for (prompt, output), record in zip(rows, records, strict=True)
        ]
        return EvaluationResult(
            texts={"samples": markdown_table(["prompt", "output"], rows)}, records=saved
        )


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix(Evaluator):
    """The confusion matrix, if the model counts it."""

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        if CONFUSION_MATRIX not in context.tables or not context.is_shown:
            return EvaluationResult()
        names = next(iter(self.experiment.data.class_names.values()))
        image = pictures.confusion_matrix(context.tables[CONFUSION_MATRIX], names)
        return EvaluationResult(images={CONFUSION_MATRIX: image})


@dataclasses.dataclass(frozen=True)
class LabelledImages(Evaluator):
    """The first `num_images` images of a split with their predictions; 0 for none."""

    num_images: int = 12

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_images")
        _image_data(self)

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        if not self.num_images or not context.is_shown:
            return EvaluationResult()
        images = Images(len(self._first), [(image, {}) for image, _ in self._first])
        records = self.experiment.inference.records(images, context.progress)
        names = _image_data(self).label_names
        labelled = [
            pictures.LabelledImage(
                image,
                names[label],
                str(record.fields["label"]),
                cast(float, record.fields["probability"]),
            )
            for (image, label), record in zip(self._first, records, strict=True)
        ]
        saved = [
            {"index": i, "true_label": names[label], **record.fields}
            for i, ((_, label), record) in enumerate(zip(self._first, records, strict=True))
        ]
        grid = pictures.image_grid(labelled)
        return EvaluationResult(images={"predictions": grid}, records=saved)

    @functools.cached_property
    def _first(self) -> list[tuple[np.ndarray, int]]:
        return list(itertools.islice(_image_data(self).images(self.split), self.num_images))


def score_pairs(
    evaluator: Evaluator, pairs: Sequence[tuple[bytes, bytes]], context: EvaluationContext
) -> Iterator[Score]:
    """Yields the score of every pair, and reports the progress."""
    for first in range(0, len(pairs), _PAIRS_PER_CALL):
        some = pairs[first : first + _PAIRS_PER_CALL]
        for record in evaluator.experiment.inference.scores(some):
            yield Score(*cast(Any, [record.fields[name] for name in Score._fields]))
        context.progress(first + len(some))


def _image_data(evaluator: Evaluator) -> ImageData:
    who = f"Evaluation.evaluators: {type(evaluator).__name__}"
    return require(evaluator.experiment.data, ImageData, who, "leave it out")


def _numbers(record: Record) -> dict[str, object]:
    """Returns the fields of a record beside its texts: scores, numbers of tokens, all outputs."""
    texts = ("prompt", "output")
    return {name: value for name, value in record.fields.items() if name not in texts}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose cells show texts as they are, line breaks and blanks included."""
    lines = [list(header), ["---"] * len(header), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"
    text = _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", html.escape(text))
    # Blanks at the beginning of a line, and of two blanks the first, would not be shown.
    text = re.sub(r"(?m)^ | (?= )", "&nbsp;", text.expandtabs(4))
    return "<br>".join(text.splitlines())
