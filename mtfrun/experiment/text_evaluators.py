"""Evaluators of text: entropies, decodes against references, samples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtfrun import evaluation
from mtfrun.data import TextData, conditional_entropy
from mtfrun.data.task import Metrics
from mtfrun.errors import InputError
from mtfrun.experiment.evaluator import (
    EvaluationContext,
    EvaluationResult,
    Evaluator,
    named_by_task,
)
from mtfrun.experiment.inference import Record, required
from mtfrun.experiment.markdown_table import markdown_table

# Number of decodes that TensorBoard shows, and that a file of the run directory has.
SHOWN_DECODES, SAVED_DECODES = 10, 100


@dataclasses.dataclass(frozen=True)
class Entropies(Evaluator):
    """Conditional entropies of the text: baselines for a model's bits per byte.

    Attributes:
      orders: for each, the entropy of the split's bytes given that number of preceding bytes, as
        "order_2_entropy".
    """

    uses_model: ClassVar[bool] = False

    orders: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.orders and not self._data.has_text:
            raise InputError(
                f"Entropies.orders={self.orders} needs running text, which "
                f"{type(self._data).__name__} is not: set it to []"
            )

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns the entropies, which do not depend on the model."""
        return EvaluationResult(metrics=self._entropies)

    @property
    def _data(self) -> TextData:
        who = f"Entropies.orders={self.orders}"
        return required(self.experiment.data, TextData, who, "set it to []")

    @functools.cached_property
    def _entropies(self) -> dict[str, float]:
        if not self.orders:
            return {}
        text = self._data.text(self.split)
        return {f"order_{order}_entropy": conditional_entropy(text, order) for order in self.orders}


@dataclasses.dataclass(frozen=True)
class DecodedPairs(Evaluator):
    """Metrics of decodes against their targets; TensorBoard shows the first ones.

    Every task of a mixture has metrics by itself.

    Attributes:
      num_decodes: number of pairs of every task, the same every time; 0 for none.
      metrics: functions of all targets and all predictions that return metrics by name, besides
        "token_accuracy": for data whose task has none. A metric of the same name as one of the
        model's replaces that.
    """

    num_decodes: int = 0
    metrics: Sequence[Metrics] = (evaluation.text_metrics,)

    def __post_init__(self) -> None:
        if self.num_decodes and not self._data.has_pairs:
            raise InputError(
                f"DecodedPairs.num_decodes={self.num_decodes} needs pairs to compare outputs with: "
                "set it to 0 or use @data.SequenceToSequenceData() or @data.DelimitedPairsData()"
            )

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns the metrics, and texts of the first decodes."""
        if not self.num_decodes:
            return EvaluationResult()
        metrics: dict[str, float] = {}
        texts: dict[str, str] = {}
        saved: list[Mapping[str, object]] = []
        for name, pairs in self._pairs.items():
            result = self._evaluate_task(self._parts[name], pairs, context)
            metrics |= named_by_task(name, result.metrics)
            texts |= named_by_task(name, result.texts)
            saved += [{"task": name, **record} if name else record for record in result.records]
        return EvaluationResult(metrics, texts, records=saved)

    def _evaluate_task(
        self, data: TextData, pairs: Sequence[tuple[bytes, bytes]], context: EvaluationContext
    ) -> EvaluationResult:
        """Returns the results of one task."""
        records = self.experiment.inference.records(
            [inputs for inputs, _ in pairs], context.progress
        )
        outputs = [record.texts[0] for record in records]
        targets = [target.decode("utf-8", "replace") for _, target in pairs]
        values = [[data.postprocess(text) for text in texts] for texts in (targets, outputs)]
        metrics: dict[str, float] = {}
        for metrics_of in data.metrics or self.metrics:
            metrics |= metrics_of(*values)
        encode = data.vocabulary.encode
        metrics["token_accuracy"] = evaluation.token_accuracy(
            [encode(text) for text in targets], [encode(text) for text in outputs]
        )
        inputs = [text.decode("utf-8", "replace") for text, _ in pairs]
        rows = [
            [x, target, output, "yes" if output == target else "no"]
            for x, target, output in zip(inputs, targets, outputs, strict=True)
        ]
        shown = markdown_table(["input", "target", "output", "equal"], rows[:SHOWN_DECODES])
        saved = [
            {"input": x, "target": target, "output": output, **_numbers(record)}
            for (x, target, output, _), record in zip(rows[:SAVED_DECODES], records, strict=False)
        ]
        return EvaluationResult(metrics, texts={"decodes": shown}, records=saved)

    @property
    def _data(self) -> TextData:
        return required(self.experiment.data, TextData, self._who, "set it to 0")

    @property
    def _who(self) -> str:
        return f"DecodedPairs.num_decodes={self.num_decodes}"

    @functools.cached_property
    def _parts(self) -> dict[str, TextData]:
        parts = self._data.by_task()
        return {name: required(x, TextData, self._who, "set it to 0") for name, x in parts.items()}

    @functools.cached_property
    def _pairs(self) -> dict[str, list[tuple[bytes, bytes]]]:
        return {name: x.pairs(self.split, self.num_decodes) for name, x in self._parts.items()}


@dataclasses.dataclass(frozen=True)
class Samples(Evaluator):
    """Decodes of some prompts, which TensorBoard shows.

    Attributes:
      prompts: the prompts.
    """

    prompts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.prompts:
            required(self.experiment.data, TextData, "Samples.prompts", "set it to []")

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns the prompts and their outputs as text."""
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


def _numbers(record: Record) -> dict[str, object]:
    """Returns what a record has beside the texts: scores, numbers of tokens, all outputs."""
    texts = ("prompt", "output")
    return {name: value for name, value in record.fields.items() if name not in texts}
