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
# Of the cipher by which grain shuffles.
_ROUNDS, _LEAST_BLOCK_BITS, _WORD = 4, 16, 0xFFFFFFFF
# Below this number all rows are shuffled to find one: deciphering would take longer.
_FEW_ROWS = 256


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


class Order:
    """The row at each position of an endless sequence of examples.

    Every component is shuffled anew in each epoch by a permutation with random access, and
    components are mixed in proportion to `rates`. After `max_epochs` a component is no longer
    drawn; at least one has no such limit. Access to any position is random.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float] | None = None,
        max_epochs: Sequence[int | None] | None = None,
        *,
        seed: int,
    ):
        if min(sizes) < 1:
            raise DataError("there are no rows to train on: choose another source or split")
        self._sizes = tuple(sizes)
        self._seed = seed
        self._shuffles = [Shuffle(size, seed + number) for number, size in enumerate(sizes)]
        limits = [
            None if epochs is None else epochs * size
            for epochs, size in zip(max_epochs or [None] * len(sizes), sizes, strict=True)
        ]
        self.mixing = Mixing(rates or [1.0] * len(sizes), limits)

    def at(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray, Selection]]:
        """Yields each component, the indices of its positions, int64 [rows], and its rows there."""
        components, positions_of_component = self.mixing.at(positions)
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
        drawn = self.mixing.count_before(before)[component]
        epochs = range(-(-drawn // size) if rows.size else 0)
        in_epochs = [epoch * size + shuffle.index_in_epoch(rows, epoch) for epoch in epochs]
        within = np.concatenate([np.zeros([0], np.int64), *in_epochs])
        numbers = np.tile(np.arange(rows.size), within.size // max(1, rows.size))
        is_drawn = within < drawn
        within, numbers = within[is_drawn], numbers[is_drawn]
        if within.size:  # a version of grain with another shuffle has another inverse
            assert shuffle.at(within[:1]) == rows[numbers[:1]]
        return self.mixing.positions_of(component, within, before), numbers


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

    def positions_of(self, component: int, within: np.ndarray, before: int) -> np.ndarray:
        """Returns the inverse of `at`: the positions of a component's elements, int64 [n].

        All are below the position `before`. By bisection, of all at the same time.
        """
        low, high = np.zeros_like(within), np.full_like(within, before)
        while (low + 1 < high).any():
            middle = (low + high) // 2
            is_later = self._counts_before(component, middle) <= within
            low, high = np.where(is_later, middle, low), np.where(is_later, high, middle)
        return low

    def _counts_before(self, component: int, positions: np.ndarray) -> np.ndarray:
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
        return [int(self._counts_before(i, np.array([position]))[0]) for i in components]


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
    """The rows of one component in the order of each epoch; grain's shuffle, and its inverse.

    grain shuffles by a permutation with random access, a Simon cipher of four rounds (Beaulieu et
    al. 2013, https://eprint.iacr.org/2013/404) on blocks just large enough for the highest index,
    applied until the result is an index (cycle walking). Deciphering is as cheap, and vectorised
    here: it finds a row in an epoch without computing the order.
    """

    def __init__(self, size: int, seed: int):
        self._size = size
        # grain 0.2.18 takes too small blocks for 2^k + 1 rows with an even k from 16 on: the last
        # row is never drawn, and another one twice. There, one more row is shuffled and left out.
        is_power_of_4 = (size - 1).bit_count() == 1 and (size - 1).bit_length() % 2 == 1
        self._drawn = size + (size > 1 << _LEAST_BLOCK_BITS and is_power_of_4)
        self._shuffled = grain.MapDataset.range(self._drawn).seed(seed).shuffle()
        self._repeated = self._shuffled.repeat()

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows that are drawn at numbers, counted through all epochs, int64 [rows]."""
        rows = np.empty(len(numbers), np.int64)
        for i, number in enumerate(numbers.tolist()):
            epoch, row = divmod(number, self._size)
            row = self._repeated[epoch * self._drawn + row]
            while row >= self._size:
                row = self._repeated[epoch * self._drawn + row]
            rows[i] = row
        return rows

    def index_in_epoch(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Returns the places of rows in an epoch, int64 [rows]."""
        if self._size < _FEW_ROWS:
            order = self.at(epoch * self._size + np.arange(self._size))
            index: np.ndarray = np.argsort(order)[rows]
            return index
        bits = max(_LEAST_BLOCK_BITS, (self._drawn - 2).bit_length())
        bits += bits % 2
        keys = _round_keys((self._shuffled._seed + epoch) % (1 << 32))
        indices = rows.astype(np.uint64)
        is_open = np.ones(indices.shape, bool)
        while is_open.any():
            indices[is_open] = _decipher(indices[is_open], keys, bits // 2)
            is_open = indices >= self._size
        return indices.astype(np.int64)


def _decipher(values: np.ndarray, keys: list[int], word_bits: int) -> np.ndarray:
    mask = np.uint64((1 << word_bits) - 1)
    left, right = values >> np.uint64(word_bits), values & mask
    for number in range(_ROUNDS - 1, 0, -2):
        right = right ^ _mix(left, word_bits) ^ (np.uint64(keys[number]) & mask)
        left = left ^ _mix(right, word_bits) ^ (np.uint64(keys[number - 1]) & mask)
    return left << np.uint64(word_bits) | right


def _mix(word: np.ndarray, word_bits: int) -> np.ndarray:
    """The function of Simon's rounds: of the word, rotated by 1, 2 and 8 bits."""
    mask = np.uint64((1 << word_bits) - 1)
    one, two, eight = (
        (word << np.uint64(by) | word >> np.uint64(word_bits - by)) & mask for by in (1, 2, 8)
    )
    mixed: np.ndarray = one & eight ^ two
    return mixed


def _round_keys(seed: int) -> list[int]:
    """Returns what std::seed_seq of C++ generates from a seed: four words, [rand.util.seedseq]."""
    count, words = _ROUNDS, [0x8B8B8B8B] * _ROUNDS
    # With t = (n - 1) / 2, p = (n - t) / 2, q = p + t and m = max(s + 1, n), for n = 4 and s = 1.
    p, q = 1, 2
    for k in range(count):
        mixed = _mix_seed(words[k] ^ words[(k + p) % count] ^ words[k - 1], 1664525)
        added = (mixed + (1 if k == 0 else k + seed if k == 1 else k)) & _WORD
        words[(k + p) % count] = (words[(k + p) % count] + mixed) & _WORD
        words[(k + q) % count] = (words[(k + q) % count] + added) & _WORD
        words[k] = added
    for k in range(count, 2 * count):
        total = words[k % count] + words[(k + p) % count] + words[(k - 1) % count]
        mixed = _mix_seed(total & _WORD, 1566083941)
        removed = (mixed - k % count) & _WORD
        words[(k + p) % count] ^= mixed
        words[(k + q) % count] ^= removed
        words[k % count] = removed
    return words


def _mix_seed(word: int, factor: int) -> int:
    return factor * (word ^ word >> 27) & _WORD
