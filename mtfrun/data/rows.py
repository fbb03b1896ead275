"""The base class of rows: what a batch is gathered from, with random access."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Batch = Mapping[str, np.ndarray]
"""Features [batch, ...] by name, int32 or uint8."""


class Selection(NamedTuple):
    """The rows of a batch.

    Attributes:
      rows: int64 [batch] numbers of rows.
      epochs: int64 [batch] how often each has been visited before. A row and its epoch seed the
        noise of objectives and augmentations, so that noise depends neither on the batch size nor
        on the number of hosts.
      seed: of all noise.
    """

    rows: np.ndarray
    epochs: np.ndarray
    seed: int = 0

    def generators(self) -> list[np.random.Generator]:
        """Returns generators of random numbers, each a function of seed, epoch and row."""
        return [
            np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, row, epoch]))
            for row, epoch in zip(self.rows.tolist(), self.epochs.tolist(), strict=True)
        ]


class Density(NamedTuple):
    """How full rows are.

    Attributes:
      tokens: ids in all rows that are no padding.
      capacity: positions of all rows, over all features.
      cut_tokens: ids of the texts that are in no row, because their texts are too long.
    """

    tokens: int
    capacity: int
    cut_tokens: int

    @property
    def fraction(self) -> float:
        """The part of all positions that is no padding."""
        return self.tokens / self.capacity


class Rows(abc.ABC):
    """A finite number of rows of features.

    One epoch visits each row once.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows."""

    @abc.abstractmethod
    def take(self, selection: Selection) -> Batch:
        """Returns the features of the selected rows, in their order.

        A pure function of the selection; may be called by any thread.
        """

    def padding_of(self, feature: str) -> int:
        """Returns what a feature has in rows that fill up a batch."""
        return 0

    @property
    def density(self) -> Density | None:
        """How full the rows are, exactly; None where it is not known before all are made."""
        return None


class SelectedRows(NamedTuple):
    """Positions [rows] within a batch, and the selection of one component that stands there.

    Attributes:
      component: number of the `Rows` among those that are mixed.
      positions: int64 [rows] where they stand in the batch.
      selection: the rows.
    """

    component: int
    positions: np.ndarray
    selection: Selection
