"""Plans of rows: which texts are packed into one row."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Version of the algorithm, part of the names of stored plans: another one makes other rows.
VERSION = 1
# Of the order in which texts of equal length are put into rows.
_SEED = 0
# Where two features are about equally scarce, rows are planned this much shorter in one of them, so
# that the sums of the other, which vary by a few tokens from row to row, fit as well.
_SLACK = 1 / 170
# How often each text's row is reconsidered for the sake of the second feature.
_SWEEPS = 2


class Plan(NamedTuple):
    """The texts of every row.

    Attributes:
      examples: int32 [examples] numbers of the examples, row by row.
      row_starts: int64 [rows + 1] where the examples of each row begin in `examples`.
    """

    examples: np.ndarray
    row_starts: np.ndarray

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.row_starts.size - 1


def pack(lengths: np.ndarray, capacities: Sequence[int]) -> Plan:
    """Returns a plan of rows in which every feature fits.

    One feature: best fit, longest first (Johnson et al. 1974, https://doi.org/10.1137/0203025: at
    most 11/9 of the optimal number of rows, plus 4), over the histogram of lengths, in time
    proportional to the number of examples.

    Several features: the same for the scarcest feature; then examples that are equally long in it
    are exchanged, so that the sums of the second scarcest feature become equal in all rows; what
    does not fit nevertheless is packed again.

    >>> plan = pack(np.array([[3], [7], [5], [5]]), [10])
    >>> [sorted(x.tolist()) for x in np.split(plan.examples, plan.row_starts[1:-1])]
    [[0, 1], [2, 3]]

    Args:
      lengths: [examples, features] tokens of every text, at least 1 for one of the features. Those
        longer than the capacity count as the capacity.
      capacities: [features] tokens of a row.
    """
    capacity = np.asarray(capacities, np.int32)
    examples, features = lengths.shape
    # Not in the order of the source: neighbours there, which are often alike, would share a row.
    order = np.random.default_rng(_SEED).permutation(examples).astype(np.int32)
    sizes = np.minimum(lengths[order], capacity).astype(np.int32)
    is_simple = features == 1
    rows = _best_fit(sizes[:, 0], int(capacity[0])) if is_simple else _fit_all(sizes, capacity)
    by_row = np.argsort(rows, kind="stable")
    counts = np.bincount(rows)
    return Plan(order[by_row], np.concatenate([[0], np.cumsum(counts)]))


def stored_plan(directory: Path, name: str, examples: int, make: Callable[[], Plan]) -> Plan:
    """Returns the plan that is stored in the directory of a cache, after making it if need be.

    Args:
      directory: of the cache, whose lengths never change.
      name: of all else that the plan depends on.
      examples: that the plan has to hold; one that does not is made anew.
      make: makes the plan.
    """
    path = directory / f"plan-{VERSION}-{name}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
        with np.load(path) as stored:
            plan = Plan(stored["examples"], stored["row_starts"])
        if plan.examples.size == examples == plan.row_starts[-1]:
            return plan
    plan = make()
    with contextlib.suppress(OSError):  # where nothing can be written, it is made anew each time
        _store(plan, path)
    return plan


def _store(plan: Plan, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".plan-") as work:
        beside = Path(work) / path.name
        np.savez(beside, examples=plan.examples, row_starts=plan.row_starts)
        beside.rename(path)


def _best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Returns the row of each size, int32 [examples], by best fit, longest first.

    Rows with the same free space are interchangeable, and so are examples of the same size: each
    step puts as many of those as possible into as many of these.
    """
    by_size = np.argsort(capacity - sizes, kind="stable")
    counts = np.bincount(sizes, minlength=capacity + 1)
    rows_by_space: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit n is set if there are rows with a free space of n
    row_of = np.empty(sizes.size, np.int32)
    cursor = num_rows = 0
    for size in range(capacity, 0, -1):
        remaining = int(counts[size])
        while remaining:
            if large_enough := spaces >> size:
                # The lowest bit that is set.
                space = size + (large_enough & -large_enough).bit_length() - 1
                rows = rows_by_space[space].pop()
            else:
                space = capacity
                new = -(-remaining // (capacity // size))
                rows = np.arange(num_rows, num_rows + new, dtype=np.int32)
                num_rows += new
            used, unused = rows[:remaining], rows[remaining:]
            if unused.size:
                rows_by_space[space].append(unused)
            rows_by_space[space - size].append(used)
            spaces |= 1 << space | 1 << (space - size)
            if not rows_by_space[space]:
                spaces &= ~(1 << space)
            row_of[by_size[cursor : cursor + used.size]] = used
            cursor, remaining = cursor + used.size, remaining - used.size
    return row_of


def _fit_all(sizes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Returns the row of each example, int32 [examples], in which all features fit."""
    row_of = np.empty(len(sizes), np.int32)
    unpacked = np.arange(len(sizes))
    num_rows = 0
    while unpacked.size:
        part = sizes[unpacked]
        fractions = part.sum(0, dtype=np.int64) / capacity
        first, second = np.argsort(-fractions, kind="stable")[:2]
        room = int(capacity[first])
        if fractions[second] > fractions[first] * (1 - _SLACK):
            room -= min(int(room * _SLACK), room - int(part[:, first].max()))
        rows = _best_fit(part[:, first], room)
        _balance(rows, part[:, first], part[:, second])
        excess = _excess(rows, part, capacity)
        kept = ~excess
        _, rows = np.unique(rows[kept], return_inverse=True)
        row_of[unpacked[kept]] = rows + num_rows
        num_rows += int(rows.max()) + 1
        unpacked = unpacked[excess]
    return row_of


def _balance(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Makes the sums of `second` in all rows as equal as possible; those of `first` stay.

    Examples of equal `first` exchange their rows, all [examples]: the one with the largest `second`
    goes to the row where the others' sum is the smallest.
    """
    # Of a row that is not full in `first`, a smaller sum of `second` is expected.
    scale = second.sum(dtype=np.int64) / first.sum(dtype=np.int64)
    deviation = second - scale * first
    num_rows = int(rows.max()) + 1
    total = np.bincount(rows, deviation, num_rows)
    groups = _groups(rows, first)
    for _ in range(_SWEEPS):
        for group in groups:
            places = rows[group]
            others = total[places] - deviation[group]
            by_place = np.argsort(others)
            by_deviation = np.argsort(-deviation[group])
            rows[group[by_deviation]] = places[by_place]
            total[places[by_place]] = others[by_place] + deviation[group[by_deviation]]


def _groups(rows: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
    """Returns groups of examples of equal `first`, longest first, each with distinct rows."""
    order = np.lexsort((rows, -first))
    index = np.arange(order.size)
    is_new = np.ones(order.size, bool)  # the first of its length in its row
    is_new[1:] = np.diff(rows[order]).astype(bool) | np.diff(first[order]).astype(bool)
    nth = index - np.maximum.accumulate(np.where(is_new, index, 0))
    by_nth = np.lexsort((nth, -first[order]))
    order, nth = order[by_nth], nth[by_nth]
    changes = np.diff(nth).astype(bool) | np.diff(first[order]).astype(bool)
    return np.split(order, np.flatnonzero(changes) + 1)


def _excess(rows: np.ndarray, sizes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Returns the examples, bool [examples], without which all rows fit."""
    excess = np.zeros(rows.size, bool)
    num_rows = int(rows.max()) + 1
    for feature, limit in enumerate(capacity.tolist()):
        while True:
            size = np.where(excess, 0, sizes[:, feature])
            surplus = np.bincount(rows, size, num_rows) - limit
            (candidates,) = np.nonzero((surplus[rows] > 0) & ~excess)
            if not candidates.size:
                break
            # Of each row the smallest one that is enough, else the largest.
            missing = surplus[rows[candidates]] - size[candidates]
            cost = np.where(missing > 0, limit + missing, -missing)
            candidates = candidates[np.lexsort((cost, rows[candidates]))]
            _, best = np.unique(rows[candidates], return_index=True)
            excess[candidates[best]] = True
    return excess
