"""Interface of evaluators: metrics on a split besides the metrics of the model."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import numpy as np

from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.records import Progress

T = TypeVar("T")


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
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    records: Sequence[Mapping[str, object]] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
