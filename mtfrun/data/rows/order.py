"""The order of training examples: a function of the seed and the position, with random access."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.rows.shuffling import Shuffle

N = TypeVar("N", int, np.ndarray)

# Rates are rounded to shares of this number. Products with positions up to 2^42 fit into int64.
_PARTS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Host:
    """The part of every batch that a process reads: row indices, ascending; None for all rows."""

    rows: Sequence[int] | None = None

    def rows_of(self, batch: int) -> np.ndarray:
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
        """Returns generators of random numbers, each a function of seed, epoch and row."""
        return [
            np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, row, epoch]))
            for row, epoch in zip(self.rows.tolist(), self.epochs.tolist(), strict=True)
        ]


class Order:
    """The rows that stand at each position of an endless sequence of examples.

    Every component is shuffled anew in each epoch by a permutation with random access, and
    components are mixed in proportion to `rates`. After `max_epochs` a component is no longer
    drawn; one at least has no such limit. The order depends neither on the batch size nor on the
    number of hosts, and any position is reached at once.
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
        self._shuffles = [Shuffle(size, seed + number) for number, size in enumerate(sizes)]
        limits = [
            None if epochs is None else epochs * size
            for epochs, size in zip(max_epochs or [None] * len(sizes), sizes, strict=True)
        ]
        self._mixing = Mixing(rates or [1.0] * len(sizes), limits)

    def at(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray, Selection]]:
        """Yields each component, the indices of its positions, int64 [rows], and its rows there."""
        components, positions_of_component = self._mixing.at(positions)
        for component, (size, shuffle) in enumerate(zip(self._sizes, self._shuffles, strict=True)):
            (places,) = np.nonzero(components == component)
            if places.size:
                drawn = positions_of_component[places]
                yield component, places, Selection(shuffle.at(drawn), drawn // size, self._seed)

    def find(self, component: int, rows: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the positions below `before` of a component's rows, and the index of each row.

        Both int64 [positions], by epoch. The time does not depend on the number of positions.
        """
        size, shuffle = self._sizes[component], self._shuffles[component]
        drawn = self._mixing.count_before(before)[component]
        within = np.concatenate(
            [
                epoch * size + shuffle.index_in_epoch(rows, epoch)
                for epoch in range(-(-drawn // size) if rows.size else 0)
            ]
            or [np.zeros([0], np.int64)]
        )
        numbers = np.tile(np.arange(rows.size), within.size // max(1, rows.size))
        is_drawn = within < drawn
        within, numbers = within[is_drawn], numbers[is_drawn]
        if within.size:  # a version of grain with another shuffle has another inverse
            assert shuffle.at(within[:1]) == rows[numbers[:1]]
        return self._mixing.positions_of(component, within, before), numbers

    def count_before(self, position: int) -> list[int]:
        return self._mixing.count_before(position)


class _Phase(NamedTuple):
    """From position `first` on, before which `drawn` elements stand, components do not change."""

    first: int
    components: list[int]
    shares: list[int]
    drawn: list[int]


class Mixing:
    """An endless sequence in which every component has its share of each stretch of positions.

    The counts of components among the first n positions differ from n times their shares by less
    than the number of components. Nothing is drawn at random, so any position is reached by
    arithmetic: the first component has n - floor(n (1 - share)) of n positions, and the remaining
    ones are shared in the same way. `limits` are how many elements of a component are drawn at
    most; None for any number, which one has.
    """

    def __init__(self, rates: Sequence[float], limits: Sequence[int | None]):
        self._phases: list[_Phase] = []
        drawn = [0] * len(rates)
        components = [i for i, limit in enumerate(limits) if limit != 0]
        first = 0
        while True:
            shares = _shares([rates[i] for i in components])
            self._phases.append(_Phase(first, components, shares, list(drawn)))
            left = {i: limit - drawn[i] for i in components if (limit := limits[i]) is not None}
            if not left:
                break
            length = min(_first_with(left[i], components.index(i), shares) for i in left)
            for i, count in zip(components, _counts(length, shares), strict=True):
                drawn[i] += count
            components = [i for i in components if (limit := limits[i]) is None or drawn[i] < limit]
            first += length
        self._firsts = [phase.first for phase in self._phases]

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the component, and the position within it, at each position; all int64 [n]."""
        components, within = np.empty_like(positions), np.empty_like(positions)
        numbers = np.searchsorted(self._firsts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = numbers == number
            components[places], within[places] = _in_phase(self._phases[number], positions[places])
        return components, within

    def positions_of(self, component: int, within: np.ndarray, before: int) -> np.ndarray:
        """Returns the inverse of `at`: where elements of a component stand, int64 [n].

        All stand below the position `before`. By bisection, of all at the same time.
        """
        low, high = np.zeros_like(within), np.full_like(within, before)
        while (low + 1 < high).any():
            middle = (low + high) // 2
            is_later = self._counts_before(component, middle) <= within
            low, high = np.where(is_later, middle, low), np.where(is_later, high, middle)
        return low

    def _counts_before(self, component: int, positions: np.ndarray) -> np.ndarray:
        counts = np.empty_like(positions)
        numbers = np.searchsorted(self._firsts, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            phase, places = self._phases[number], numbers == number
            counts[places] = phase.drawn[component]
            if component in phase.components:
                within = _counts(positions[places] - phase.first, phase.shares)
                counts[places] += within[phase.components.index(component)]
        return counts

    def count_before(self, position: int) -> list[int]:
        phase = self._phases[bisect.bisect_right(self._firsts, position) - 1]
        drawn = list(phase.drawn)
        counts = _counts(position - phase.first, phase.shares)
        for component, count in zip(phase.components, counts, strict=True):
            drawn[component] += count
        return drawn


def _shares(rates: Sequence[float]) -> list[int]:
    return [max(1, round(rate / sum(rates) * _PARTS)) for rate in rates]


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
    """Returns the least length in which a component occurs `count` times, by bisection."""
    longest = 1
    while _counts(longest, shares)[component] < count:
        longest *= 2
    return bisect.bisect_left(
        range(longest), count, key=lambda length: _counts(length, shares)[component]
    )


def _in_phase(phase: _Phase, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    components, within = np.empty_like(positions), np.empty_like(positions)
    # The component whose count rises between the lengths n and n + 1 has position n.
    before = positions - phase.first
    after = before + 1
    undecided = np.ones(len(positions), bool)
    remaining = sum(phase.shares)
    for component, share in zip(phase.components, phase.shares, strict=True):
        further_before = before * (remaining - share) // remaining
        further_after = after * (remaining - share) // remaining
        count = before - further_before
        rises = undecided & (count != after - further_after)
        components[rises] = component
        within[rises] = count[rises] + phase.drawn[component]
        undecided &= ~rises
        before, after, remaining = further_before, further_after, remaining - share
    return components, within
