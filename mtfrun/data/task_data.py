"""Base class of data made of a task's texts."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.data.batches import Batches, every_row
from mtfrun.data.data import TextData
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.order import ONLY_HOST, Host
from mtfrun.data.rows import Batch, Rows
from mtfrun.data.task import Task
from mtfrun.data.vocabularies.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TaskData(TextData):
    """Rows of a task's texts; subclasses say what a row is.

    Attributes:
      texts: names of the features that are read.
      task: the source, the preprocessors and the vocabulary.
    """

    texts: ClassVar[Sequence[str]] = (TARGETS,)

    task: Task

    @property
    def vocabulary(self) -> Vocabulary:
        """Text to ids and back, of the targets."""
        return self.task.vocabulary_of(TARGETS)

    def train(
        self, batch: int, *, seed: int, host: Host = ONLY_HOST, split: str = "train"
    ) -> Batches:
        """Returns endless shuffled batches, see `Data.train`."""
        return Batches([self._rows(self.task, split)], batch, seed=seed, host=host)

    def evaluation(self, batch: int, *, split: str = "validation") -> Iterator[Batch]:
        """Returns every row of `split` once. Rows of padding fill up a batch."""
        self._check_positive("batch", batch)
        return self._rows_of_evaluation(self.task, batch, split)

    def fingerprint(self) -> dict[str, object]:
        """Returns the hashes of ids and vocabularies, and the settings that make rows of them."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "task"
        }
        vocabularies = {name: self.task.vocabulary_of(name).fingerprint for name in self.texts}
        return {
            "texts": self.task.cache("train", self.texts).fingerprint,
            "vocabularies": vocabularies,
            "settings": settings,
        }

    def text(self, split: str) -> bytes:
        """Returns the targets of a split, one document after the other."""
        if not self.has_text:
            return super().text(split)
        return b"".join(text for (text,) in self.task.texts(split, [TARGETS]))

    def pairs(self, split: str, count: int) -> list[tuple[bytes, bytes]]:
        """Returns the first pairs of inputs and targets of a split, at most `count`."""
        if not self.has_pairs:
            return super().pairs(split, count)
        pairs = self.task.texts(split, [INPUTS, TARGETS])
        return [(inputs, target) for inputs, target in itertools.islice(pairs, count)]

    @abc.abstractmethod
    def _rows(self, task: Task, split: str) -> Rows:
        """Returns the rows of training."""

    def _rows_of_evaluation(self, task: Task, batch: int, split: str) -> Iterator[Batch]:
        """Yields the batches of an evaluation, by default those of training's rows, in order."""
        return every_row(self._rows(task, split), batch)
