"""Classification by ranking: one example per possible answer, and metrics of their scores."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mtfrun.data import TextData
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.records import list_fields
from mtfrun.data.task import Fields, Metrics, StreamPreprocessor, field_of, label_name
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult
from mtfrun.experiment.evaluation.evaluators import TextEvaluator, score_pairs
from mtfrun.extras.t5.fields import required_texts_of

_MODES = ("train", "eval")
_KEY = re.compile(r"\{([^\s{}]+)\}")


@dataclasses.dataclass(frozen=True)
class RankClassification(StreamPreprocessor):
    """One example per class, or per correct class, with texts from templates.

    With `inputs_formats="{premise} What is the {question}? X"` and `targets_formats=["I think
    {choice1}.", "I think {choice2}."]` a COPA example becomes two, with "is_correct" "True" and
    "False". "idx/0" is the index of the example, "idx/1" the index of the class.

    Attributes:
      inputs_formats, targets_formats: the templates, with fields in braces; at least one of the
        two is a list with a template per class.
      mode: "eval" for all classes, "train" for correct classes.
      label_key: the field with the index or name of the correct class, or a list of them.
      label_names: the names of the classes, if the source returns names.
      weight_key: the field to copy to each example as "weight".
      passthrough: the fields to copy to each example.
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
            raise DataError(f'RankClassification: mode="{self.mode}" must be one of {_MODES}')
        formats = (self.inputs_formats, self.targets_formats)
        counts = {len(each) for each in formats if not isinstance(each, str)}
        if len(counts) != 1:
            raise DataError(
                "RankClassification: inputs_formats or targets_formats must be a list with a text "
                "per class; lists must have equal lengths"
            )

    def process_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
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
                    INPUTS: self._format(inputs[i], fields),
                    TARGETS: self._format(targets[i], fields),
                    "is_correct": str(is_correct).encode(),
                    **list_fields("idx", [b"%d" % number, b"%d" % i]),
                    **more,
                }

    def _format(self, text: str, fields: Fields) -> bytes:
        parts = _KEY.split(text)
        # Parts alternate between literal text and names of fields.
        return b"".join(
            field_of(self, fields, part) if i % 2 else part.encode() for i, part in enumerate(parts)
        )


@dataclasses.dataclass(frozen=True)
class ScoredTargets(TextEvaluator):
    """Metrics of the log-likelihoods of targets, such as those that `RankClassification` makes.

    Attributes:
      metrics: functions of all references and all scores (see `Score`) to values by name.
      reference: function of the fields of an example, returns the value for its score; by default
        the task's.
      num_examples: number of examples of every task, the first ones of the split, so that the
        classes of an example stay together; by default all.
    """

    number = "num_examples"

    metrics: Sequence[Metrics] = ()
    reference: Callable[[Fields], Any] | None = None
    num_examples: int | None = None

    def evaluate_task(
        self, data: TextData, examples: Sequence[Fields], context: EvaluationContext
    ) -> EvaluationResult:
        references = list(map(self.reference or data.evaluated_task.reference_of, examples))
        pairs = [(example[INPUTS], example[TARGETS]) for example in examples]
        scores = list(score_pairs(self, pairs, context))
        metrics: dict[str, float] = {}
        for metrics_of in self.metrics:
            metrics |= metrics_of(references, scores)
        return EvaluationResult(metrics)

    @functools.cached_property
    def examples(self) -> dict[str, list[Fields]]:
        parts = self.parts if self.metrics else {}
        return {
            name: data.evaluated_examples(self.split, None)[: self.num_examples]
            for name, data in parts.items()
        }
