"""Batches of texts with a class each, for encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun.data.cache import TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, Feature, ids_feature
from mtfrun.data.rows import Batch, Rows, Selection
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.text_rows import PaddedRows


@dataclasses.dataclass(frozen=True)
class LabelledTextData(TaskData):
    """Texts and the class of each, predicted at the end of the text.

    The only target of a row is at the position of the inputs' end, which an encoder reads as a
    summary of the text, as Devlin et al. 2018, https://arxiv.org/abs/1810.04805, do with [CLS]: the
    number of the label + 1, for 0 has no loss. So the model's own "accuracy" is that of the labels.

    Attributes:
      length: of a row, the end included; longer texts are truncated.
      task: pairs of texts whose targets are among its labels.
    """

    remedy: ClassVar[str] = "set Experiment.model = @transformer.EncoderOnly"
    texts: ClassVar[Sequence[str]] = (INPUTS, TARGETS)

    length: int

    def __post_init__(self) -> None:
        self._check_positive("length", self.length)
        for task in self.task.tasks:
            if not 0 < len(task.labels) < self.vocabulary.size:
                raise DataError(
                    f'LabelledTextData: the task "{task.title}" has {len(task.labels)} labels: '
                    f"it needs one, and fewer than the vocabulary's {self.vocabulary.size} ids"
                )

    @property
    def features(self) -> dict[str, Feature]:
        """Inputs and targets."""
        return {
            INPUTS: ids_feature(self.length, "ids and the end, then 0 for padding"),
            TARGETS: ids_feature(self.length, "the label's number + 1 at the end, else 0"),
        }

    @property
    def tokens_per_row(self) -> int:
        """Positions of the inputs."""
        return self.length

    @property
    def bytes_per_id(self) -> np.ndarray:
        """Zeros: targets are no text."""
        return np.zeros_like(self.vocabulary.bytes_per_id)

    def _rows(self, task: Task, split: str) -> Rows:
        return _LabelledRows(self._cache(task, split), self.length, self._labels(task))

    def _labels(self, task: Task) -> dict[bytes, int]:
        """Returns the number of every label by its ids, as int32."""
        encode = task.vocabulary_of(TARGETS).encode
        return {
            encode(label).astype(np.int32).tobytes(): number
            for number, label in enumerate(task.labels)
        }


class _LabelledRows(Rows):
    """The inputs of a cache with the numbers of their labels.

    Args:
      cache: of inputs and targets.
      length: of a row.
      labels: number of every label by its ids.
    """

    def __init__(self, cache: TokenCache, length: int, labels: Mapping[bytes, int]):
        self._inputs = PaddedRows(cache, [length, 1])
        self._numbers = _numbers(cache, labels)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._numbers)

    def take(self, selection: Selection) -> Batch:
        """Returns inputs and targets, int32 [rows, length]."""
        inputs = self._inputs.take(selection)[INPUTS]
        targets = np.zeros_like(inputs)
        ends = np.count_nonzero(inputs, axis=1) - 1
        targets[np.arange(len(inputs)), ends] = self._numbers[selection.rows] + 1
        return {INPUTS: inputs, TARGETS: targets}


def _numbers(cache: TokenCache, labels: Mapping[bytes, int]) -> np.ndarray:
    """Returns the number of the label of every example, int32 [examples].

    Raises:
      DataError: a target is none of the labels.
    """
    numbers = np.empty(len(cache), np.int32)
    for example, (start, stop) in enumerate(cache.ends.tolist()):
        ids = np.asarray(cache.tokens[start : stop - 1], np.int32).tobytes()
        if ids not in labels:
            raise DataError(
                f"the target of example {example} of {cache.directory} is none of Task.labels: "
                "add it"
            )
        numbers[example] = labels[ids]
    return numbers
