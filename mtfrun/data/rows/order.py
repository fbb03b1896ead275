"""The order of training examples: a function of the seed and the position, with random access."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from mtfrun.data.errors import DataError

N = TypeVar("N", int, np.ndarray)

# Rates are rounded to shares of this number. Products with positions up to 2^42 fit into int64.
_PARTS = 1 << 20
# Rows of the smallest block of the cipher by which grain shuffles.
_LEAST_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Host:
    """The part of every batch that a process reads: row indices, ascending; None for all rows."""

    rows: Sequence[int] | None = None

    def rows_of(self, batch: int) -> np.ndarray:
        """Returns the indices of the process's rows of a batch, int64 [rows]."""
        if self.rows is None:
            return np.arange(batch)
        rows = np.asarray(self.rows, np.int64)
        if not rows.size or rows[0] < 0 or rows[-1] >= batch:
            raise DataError(f"a host's rows {self.rows} are not rows of a batch of {batch}")
        return rows


ONLY_HOST = Host()


class Selection(NamedTuple):
    """The rows of a batch, int64 [batch].

    A row, its epoch (how often it has been drawn before) and the seed fix the noise of objectives
    and augmentations: noise depends neither on the batch size nor on the number of hosts.
    """

    rows: np.ndarray
    epochs: np.ndarray
    seed: int = 0

    def generators(self) -> list[np.random.Generator]:
        return [
            np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, row, epoch]))
            for row, epoch in zip(self.rows.tolist(), self.epochs.tolist(), strict=True)
        ]


class _Phase(NamedTuple):
    """From position `first` on, before which `drawn` elements stand, components do not change."""

    first: int
    components: list[int]
    shares: list[int]
    drawn: list[int]


class Mixing:
    """An endless sequence in which every component has its share of each stretch of positions.

    The counts of components among the first n positions differ from n times their shares by less
    than the number of components. The first component has n - floor(n (1 - share)) of n positions,
    and the others share the rest in the same way. `limits` are the maximum numbers of elements of
    each component, one of which is None: any number.
    """

    def __init__(self, rates: Sequence[float], limits: Sequence[int | None]):
        self._phases: list[_Phase] = []
        drawn = [0] * len(rates)
        components = [i for i, limit in enumerate(limits) if limit != 0]
        first = 0
        while True:
            total = sum(rates[i] for i in components)
            shares = [max(1, round(rates[i] / total * _PARTS)) for i in components]
            self._phases.append(_Phase(first, components, shares, list(drawn)))
            unused = {i: limit - drawn[i] for i in components if (limit := limits[i]) is not None}
            if not unused:
                break
            length = min(_first_with(unused[i], components.index(i), shares) for i in unused)
            for i, count in zip(components, _counts(length, shares), strict=True):
                drawn[i] += count
            components = [i for i in components if (limit := limits[i]) is None or drawn[i] < limit]
            first += length
        self._firsts = [phase.first for phase in self._phases]

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the component, and the position within it, at each position; all int64 [n]."""
        components, within = np.empty_like(positions), np.empty_like(positions)
        for phase, places in self._phases_of(positions):
            before = positions[places] - phase.first
            counts, next_counts = (_counts(n, phase.shares) for n in (before, before + 1))
            # Position n belongs to the component that counts one more at length n + 1 than at n.
            for i, component in enumerate(phase.components):
                rises = counts[i] != next_counts[i]
                components[places[rises]] = component
                within[places[rises]] = counts[i][rises] + phase.drawn[component]
        return components, within

    def counts_before(self, component: int, positions: np.ndarray) -> np.ndarray:
        """Returns the number of a component's elements before each position, int64 [n]."""
        counts = np.empty_like(positions)
        for phase, places in self._phases_of(positions):
            counts[places] = phase.drawn[component]
            if component in phase.components:
                within = _counts(positions[places] - phase.first, phase.shares)
                counts[places] += within[phase.components.index(component)]
        return counts

    def _phases_of(self, positions: np.ndarray) -> Iterator[tuple[_Phase, np.ndarray]]:
        """Yields every phase with the indices of its positions."""
        numbers = np.searchsorted(self._firsts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            yield self._phases[number], np.flatnonzero(numbers == number)

    def count_before(self, position: int) -> list[int]:
        components = range(len(self._phases[0].drawn))
        return [int(self.counts_before(i, np.array([position]))[0]) for i in components]


def _counts(length: N, shares: Sequence[int]) -> list[N]:
    """Returns how many of the first `length` positions each component has."""
    counts: list[N] = []
    left, remaining = length, sum(shares)
    for share in shares:
        further = left * (remaining - share) // remaining
        counts.append(left - further)
        left, remaining = further, remaining - share
    return counts


def _first_with(count: int, component: int, shares: Sequence[int]) -> int:
    return bisect.bisect_left(range(1 << 62), count, key=lambda n: _counts(n, shares)[component])


class Shuffle:
    """The rows of one component in the order of each epoch; grain's shuffle.

    grain shuffles by a permutation with random access, a Simon cipher of four rounds (Beaulieu et
    al. 2013, https://eprint.iacr.org/2013/404) on blocks just large enough for the highest index,
    applied until the result is an index (cycle walking).

    Attributes:
      drawn: the number of rows that grain shuffles.
      shuffled: grain's dataset of one epoch.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        # grain 0.2.18 takes too small blocks for 2^k + 1 rows with an even k from 16 on: the last
        # row is never drawn, and another one twice. There, one more row is shuffled and left out.
        is_power_of_4 = (size - 1).bit_count() == 1 and (size - 1).bit_length() % 2 == 1
        self.drawn = size + (size > _LEAST_BLOCK and is_power_of_4)
        self.shuffled = grain.MapDataset.range(self.drawn).seed(seed).shuffle()
        self._repeated = self.shuffled.repeat()

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows that are drawn at numbers, counted through all epochs, int64 [rows]."""
        rows = np.empty(len(numbers), np.int64)
        for i, number in enumerate(numbers.tolist()):
            epoch, row = divmod(number, self.size)
            row = self._repeated[epoch * self.drawn + row]
            while row >= self.size:
                row = self._repeated[epoch * self.drawn + row]
            rows[i] = row
        return rows
