"""The order of training examples: a function of the seed and the position, with random access."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.proportional_order import Mixing
from mtfrun.data.rows import SelectedRows, Selection


@dataclasses.dataclass(frozen=True)
class Host:
    """The part of every batch that a process reads.

    Attributes:
      rows: the numbers of its rows in the batch, ascending; None for all of them.
    """

    rows: Sequence[int] | None = None

    def rows_of(self, batch: int) -> np.ndarray:
        """Returns the numbers, int64, of its rows in a batch of this size.

        Raises:
          DataError: the batch has no such rows.
        """
        if self.rows is None:
            return np.arange(batch)
        rows = np.asarray(self.rows, np.int64)
        if not rows.size or rows[0] < 0 or rows[-1] >= batch:
            raise DataError(f"a host's rows {self.rows} are not those of a batch of {batch}")
        return rows


ONLY_HOST = Host()


class Order:
    """The rows that stand at each position of an endless sequence of examples.

    Every component is shuffled anew in each epoch by a permutation with random access, and
    components are mixed in proportion to their rates. The order depends neither on the batch size
    nor on the number of hosts, and any position is reached at once.

    Args:
      sizes: number of rows of every component.
      rates: how often rows of each component are chosen, relative to the others; None for one
        component.
      max_epochs: after how many epochs rows of each component are no longer chosen; None for any
        number, as for one component at least.
      seed: of the shuffles.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float] | None = None,
        max_epochs: Sequence[int | None] | None = None,
        *,
        seed: int,
    ):
        for size in sizes:
            if size < 1:
                raise DataError("there are no rows to train on: choose another source or split")
        self._sizes = tuple(sizes)
        self._seed = seed
        self._shuffled = [
            grain.MapDataset.range(size).seed(seed + number).shuffle().repeat()
            for number, size in enumerate(sizes)
        ]
        limits = [
            None if epochs is None else epochs * size
            for epochs, size in zip(max_epochs or [None] * len(sizes), sizes, strict=True)
        ]
        self._mixing = Mixing(rates or [1.0] * len(sizes), limits)

    def at(self, positions: np.ndarray) -> Iterator[SelectedRows]:
        """Yields, for each component, its rows at some of the `positions`, int64 [batch]."""
        components, own = self._mixing.at(positions)
        for component, (size, shuffled) in enumerate(zip(self._sizes, self._shuffled, strict=True)):
            (here,) = np.nonzero(components == component)
            if here.size:
                visits = own[here]
                rows = np.array([shuffled[visit] for visit in visits.tolist()], np.int64)
                yield SelectedRows(component, here, Selection(rows, visits // size, self._seed))

    def drawn_before(self, position: int) -> list[int]:
        """Returns how many rows of every component stand before a position."""
        return self._mixing.drawn_before(position)
