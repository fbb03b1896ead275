"""Batches of prompts for decoding: rows of one program, and of one common beginning."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import decoding
from mtfrun.data import TARGETS, PromptFormat, PromptRow
from mtfrun.data.prompts import bucket
from mtfrun.experiment.common_beginnings import CommonBeginnings, Group
from mtfrun.experiment.records import split_into_batches
from mtfrun.models import TextModel


class DecodingShape(NamedTuple):
    """The shape of a program.

    Attributes:
      lengths: of its features, by name.
      prefill: whether prompts are read in one pass. This is decided for each row: not even the
        rounding of an answer depends on other rows, unless they have a common beginning.
      remaining: the largest number of ids of a prompt after the common beginning; 0 for none.
    """

    lengths: tuple[tuple[str, int], ...]
    prefill: bool
    remaining: int = 0


class Batch(NamedTuple):
    """Rows of one program, by their index, and the ids with which they begin, if these are read."""

    shape: DecodingShape
    rows: list[int]
    beginning: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Batching:
    """Divides rows into batches.

    Attributes:
      size: the number of rows of a batch.
      share: see `DecodingSpeed.share_beginnings`.
    """

    model: TextModel
    prompt_format: PromptFormat
    beginnings: CommonBeginnings
    size: int
    share: bool | None

    def __call__(self, rows: Sequence[PromptRow]) -> Iterator[Batch]:
        """Yields the batches of rows, each row once."""
        shapes = [self.shape_of(row) for row in rows]
        groups = [Group(list(range(len(rows))), 0)]
        if self.share is not False:
            groups = self.beginnings.groups(rows, always=bool(self.share))
        for group in groups:
            # Decoding begins after the shortest prompt of a batch.
            order = sorted(group.rows, key=lambda index: (shapes[index], rows[index].prefix))
            for shape, indices in itertools.groupby(order, shapes.__getitem__):
                for batch in split_into_batches(indices, self.size):
                    yield self._batch_of(shape, batch, group.common, rows)

    def _batch_of(
        self, shape: DecodingShape, indices: list[int], common: int, rows: Sequence[PromptRow]
    ) -> Batch:
        if not common:
            return Batch(shape, indices)
        remaining = bucket(max(rows[index].prefix for index in indices) - common)
        # The program reads so many ids, which must be in the row: perhaps some of the beginning.
        common = min(common, dict(shape.lengths)[TARGETS] - remaining)
        if common <= 0:
            return Batch(shape, indices)
        shape = shape._replace(prefill=True, remaining=remaining)
        return Batch(shape, indices, rows[indices[0]].ids[:common])

    def shape_of(self, row: PromptRow) -> DecodingShape:
        lengths = self.prompt_format.lengths(row)
        longest = self.prompt_format.longest_prefix(lengths)
        prefill = self.model.reads_prompts_at_once or decoding.worth_reading_at_once(
            row.prefix, longest
        )
        return DecodingShape(tuple(sorted(lengths.items())), prefill)
