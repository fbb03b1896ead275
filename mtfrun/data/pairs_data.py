"""Base class of data of pairs of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.prompting import Answering, PromptLimits
from mtfrun.data.rows import Rows
from mtfrun.data.task import Task
from mtfrun.data.task_data import TaskData
from mtfrun.data.text_rows import PackedRows, PaddedRows


@dataclasses.dataclass(frozen=True)
class PairsData(TaskData):
    """Pairs of texts as ids; subclasses define the rows that are made of them.

    Every text ends with the end id. Texts that exceed `inputs_length` or `targets_length` are
    truncated before it; the features `cut_at_front` lose the beginning of their texts instead.

    Attributes:
      inputs_length, targets_length: maximum number of ids of a text, including the end.
      packed: whether a row holds as many pairs as fit; packed pairs do not attend to each other.
      cut_at_front: features whose long texts lose their beginning, "inputs" or "targets"; by
        default none.
      task: the task with the pairs.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = (INPUTS, TARGETS)

    inputs_length: int
    targets_length: int
    packed: bool = True
    cut_at_front: Sequence[str] = ()

    def __post_init__(self) -> None:
        for feature in self.cut_at_front:
            if feature not in self.texts:
                raise DataError(
                    f'{type(self).__name__}: cut_at_front names "{feature}", which is none of '
                    f"{', '.join(self.texts)}"
                )
        for name in ("inputs_length", "targets_length"):
            self._check_positive(name, getattr(self, name))

    @property
    def text_limits(self) -> Mapping[str, int]:
        """The lengths of inputs and targets."""
        return {INPUTS: self.inputs_length, TARGETS: self.targets_length}

    def _num_examples(self, task: Task, split: str, rows: Rows) -> int:
        """Returns the number of pairs."""
        return len(self._cache(task, split).ends)

    def _answering(self, limits: PromptLimits) -> Answering:
        vocabularies = (self.task.vocabulary_of(INPUTS), self.task.vocabulary_of(TARGETS))
        return Answering(
            *vocabularies, self.inputs_length, self.targets_length, limits, self.cut_at_front
        )

    def _packed_rows(self, task: Task, split: str, joined: int | None = None) -> PackedRows:
        cache, lengths = task.cache(split, self.texts), list(self.text_limits.values())
        return PackedRows(cache, lengths, joined=joined, cut_at_front=self.cut_at_front)

    def _padded_rows(self, task: Task, split: str, joined: int | None = None) -> PaddedRows:
        cache, lengths = task.cache(split, self.texts), list(self.text_limits.values())
        return PaddedRows(cache, lengths, joined=joined, cut_at_front=self.cut_at_front)
