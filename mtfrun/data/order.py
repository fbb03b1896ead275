"""The order of training examples: a function of the seed and the position, with random access."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.rows import SelectedRows, Selection


@dataclasses.dataclass(frozen=True)
class Host:
    """The part of every batch that a process reads.

    Attributes:
      index: number of the process, from 0.
      count: number of processes; it divides the batch size.
    """

    index: int = 0
    count: int = 1


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
      seed: of the shuffles.
    """

    def __init__(self, sizes: Sequence[int], rates: Sequence[float] | None = None, *, seed: int):
        for size in sizes:
            if size < 1:
                raise DataError("there are no rows to train on: choose another source or split")
        self._sizes = tuple(sizes)
        self._seed = seed
        self._order = _mixed(sizes, rates, seed)

    def at(self, positions: np.ndarray) -> Iterator[SelectedRows]:
        """Yields, for each component, its rows at some of the `positions`, int64 [batch]."""
        chosen = np.array([self._order[int(position)] for position in positions], np.int64)
        for component, size in enumerate(self._sizes):
            (here,) = np.nonzero(chosen[:, 0] == component)
            if here.size:
                epochs, rows = np.divmod(chosen[here, 1], size)
                yield SelectedRows(component, here, Selection(rows, epochs, self._seed))


def _mixed(sizes: Sequence[int], rates: Sequence[float] | None, seed: int) -> grain.MapDataset:
    """Returns (component, epoch * size + row) for every position."""

    def component(number: int, size: int) -> grain.MapDataset:
        rows = grain.MapDataset.range(size).seed(seed + number).shuffle().repeat()
        return rows.map_with_index(
            lambda position, row: (number, position // size * size + int(row))
        )

    components = [component(number, size) for number, size in enumerate(sizes)]
    return components[0] if rates is None else grain.MapDataset.mix(components, rates)
