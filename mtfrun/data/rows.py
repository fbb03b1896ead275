"""The base class of rows: what a batch is gathered from, with random access."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Batch = Mapping[str, np.ndarray]
"""Features [batch, ...] by name, int32 or uint8."""


class Selection(NamedTuple):
    """The rows of a batch, int64 [batch].

    A row, its epoch (how often it has been drawn before) and the seed fix the noise of objectives
    and augmentations: noise depends neither on the batch size nor on the number of hosts.
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
    """How full rows are: their tokens and positions, and the tokens of texts that are cut off."""

    tokens: int
    capacity: int
    cut_tokens: int

    @property
    def fraction(self) -> float:
        return self.tokens / self.capacity


class Rows(abc.ABC):
    """A finite number of rows of features; an epoch has each row once."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows."""

    @abc.abstractmethod
    def take(self, selection: Selection) -> Batch:
        """Returns the features of the selected rows, in their order; pure, and thread-safe."""

    def padding_of(self, feature: str) -> int:
        """Returns what a feature has in rows that fill up a batch."""
        return 0

    @property
    def density(self) -> Density | None:
        """How full the rows are, exactly; None if unknown before all are made."""
        return None


class SelectedRows(NamedTuple):
    """Rows of one component, and their positions int64 [rows] within a batch."""

    component: int
    positions: np.ndarray
    selection: Selection
