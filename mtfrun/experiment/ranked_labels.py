"""Evaluator of a model as a classifier of texts: the likeliest of a few labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from mtfrun.data import DataError, TextData
from mtfrun.errors import InputError
from mtfrun.experiment.evaluator import (
    EvaluationContext,
    EvaluationResult,
    Evaluator,
    named_by_task,
)
from mtfrun.experiment.inference import required

# Pairs that are scored between two reports of progress.
_PAIRS_PER_CALL = 1024


@dataclasses.dataclass(frozen=True)
class RankedLabels(Evaluator):
    """The share of examples whose target is the likeliest of the task's labels.

    Every label is scored as the target of the inputs; the log-likelihood is that of all its tokens
    and the end. Unlike a decode, the prediction is always a label. ("Rank classification", Brown et
    al. 2020, https://arxiv.org/abs/2005.14165, section 2.4.) Tasks without `labels` are left out.

    Attributes:
      num_examples: number of examples of every task, the same every time; 0 for none.
    """

    num_examples: int = 0

    def __post_init__(self) -> None:
        if self.num_examples and not self._parts:
            raise InputError(
                f"{self._who} needs a task with labels: set Task.labels to all texts that a target "
                "may be, or num_examples to 0"
            )

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns "ranked_accuracy" of every task with labels."""
        if not self.num_examples:
            return EvaluationResult()
        metrics: dict[str, float] = {}
        for name, pairs in self._pairs.items():
            labels = [label.encode() for label in self._parts[name].labels]
            targets = [labels.index(target) for _, target in pairs]
            likeliest = list(self._likeliest([inputs for inputs, _ in pairs], labels, context))
            accuracy = float(np.mean(np.equal(targets, likeliest)))
            metrics |= named_by_task(name, {"ranked_accuracy": accuracy})
        return EvaluationResult(metrics)

    def _likeliest(
        self, inputs: Sequence[bytes], labels: Sequence[bytes], context: EvaluationContext
    ) -> Iterator[int]:
        """Yields the number of the likeliest label of every input."""
        size = max(1, _PAIRS_PER_CALL // len(labels))
        for first in range(0, len(inputs), size):
            some = inputs[first : first + size]
            records = self.experiment.inference.scores(
                [(x, label) for x in some for label in labels]
            )
            scores = np.array([record.fields["log_likelihood"] for record in records], np.float64)
            yield from np.argmax(scores.reshape(len(some), len(labels)), axis=1).tolist()
            context.progress(first + len(some))

    @property
    def _who(self) -> str:
        return f"RankedLabels.num_examples={self.num_examples}"

    @functools.cached_property
    def _parts(self) -> dict[str, TextData]:
        """The data of every task with labels."""
        parts = {
            name: required(data, TextData, self._who, "set it to 0")
            for name, data in self.experiment.data.by_task().items()
        }
        return {name: data for name, data in parts.items() if data.has_pairs and data.labels}

    @functools.cached_property
    def _pairs(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """The examples of every task.

        Raises:
          DataError: a target is none of the labels.
        """
        pairs = {name: x.pairs(self.split, self.num_examples) for name, x in self._parts.items()}
        for name, pairs_of_task in pairs.items():
            labels = set(self._parts[name].labels)
            for _, target in pairs_of_task:
                if (text := target.decode("utf-8", "replace")) not in labels:
                    raise DataError(
                        f'the target "{text}" of {name or "the task"} is none of Task.labels: add '
                        "it, or set RankedLabels.num_examples to 0"
                    )
        return pairs
