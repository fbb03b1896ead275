"""Packing texts into rows. Stable sorts make the same plan on every machine."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtfrun.data.cache.directory import DAMAGE_ERRORS
from mtfrun.data.files import try_to_write
from mtfrun.errors.untrusted import open_regular

# What numpy and its readers of zip files raise for damaged ones.
_DAMAGE_ERRORS = (*DAMAGE_ERRORS, OSError, MemoryError, zipfile.BadZipFile, zlib.error)
# Version of the algorithm, part of the names of stored plans.
VERSION = 2
# Seed of the order in which texts of equal length are put into rows.
_SEED = 0
# Part of the scarcest feature's capacity that rows of several features are to fill; with less room
# more examples would have to be taken out again.
_FILL = 0.995
# The second feature is ignored if it is less scarce than the first by this part.
_MUCH_LESS_SCARCE = 0.1
# The share of rows that may exceed the other features if rows are packed by the scarcest.
_FEW_EXCEED = 0.02
# Examples of several features that are packed together, to bound the memory; and one by one.
_EXAMPLES_PER_STEP, _FEW = 1 << 18, 512


class Plan(NamedTuple):
    """The texts of every row: `examples` int32, row by row, from `row_starts` int64 [rows + 1]."""

    examples: np.ndarray
    row_starts: np.ndarray

    @property
    def rows(self) -> int:
        return self.row_starts.size - 1


def pack(lengths: np.ndarray, capacities: Sequence[int]) -> Plan:
    """Returns a plan of rows in which every feature fits.

    `lengths` are [examples, features] tokens, at least 1; longer ones count as the capacity.

    One feature: best fit, longest first (Johnson et al. 1974, https://doi.org/10.1137/0203025: at
    most 11/9 of the optimal number of rows, plus 4), over the histogram of lengths, in time
    proportional to the number of examples.

    Several features: the same for the scarcest, if the others then fit nearly everywhere; else
    `_deal`, into as many rows as the tokens need. What does not fit is packed again.

    Examples:
      >>> plan = pack(np.array([[3], [7], [5], [5]]), [10])
      >>> [sorted(x.tolist()) for x in np.split(plan.examples, plan.row_starts[1:-1])]
      [[0, 1], [2, 3]]
    """
    capacity = np.asarray(capacities, np.int32)
    examples, features = lengths.shape
    # Not in the order of the source: neighbours there, which are often alike, would share a row.
    order = np.arange(examples, dtype=np.int32)
    np.random.default_rng(_SEED).shuffle(order)
    step = examples if features == 1 else _EXAMPLES_PER_STEP
    rows = np.empty(examples, np.int32)
    num_rows = 0
    for first in range(0, examples, step):
        sizes = np.minimum(lengths[order[first : first + step]], capacity)
        part = _best_fit(sizes[:, 0], int(capacity[0])) if features == 1 else _fit(sizes, capacity)
        rows[first : first + step] = num_rows + part
        num_rows += int(part.max()) + 1
    counts = np.bincount(rows, minlength=num_rows)
    by_row = np.argsort(rows, kind="stable")
    return Plan(order[by_row], np.concatenate([[0], np.cumsum(counts)]))


def stored_plan(directory: Path, name: str, examples: int, make: Callable[[], Plan]) -> Plan:
    """Returns the plan stored as `name`, which must identify its input; made if necessary."""
    path = directory / f"plan-{VERSION}-{name}.npz"
    with contextlib.suppress(*_DAMAGE_ERRORS):
        with open_regular(path) as file, np.load(file) as stored:
            plan = Plan(stored["examples"], stored["row_starts"])
            has_name = str(stored["name"]) == name
        if has_name and _has_every_example(plan, examples):
            return plan
    plan = make()
    try_to_write(path, lambda beside: np.savez(beside, **plan._asdict(), name=name))
    return plan


def _has_every_example(plan: Plan, examples: int) -> bool:
    starts = plan.row_starts
    return bool(
        plan.examples.dtype == np.int32
        and starts.dtype == np.int64
        and (starts[0], starts[-1]) == (0, examples)
        and (np.diff(starts) > 0).all()
        and plan.examples.min() >= 0
        and (np.bincount(plan.examples, minlength=examples) == 1).all()
    )


def _best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Returns the row of each size, int32 [examples], by best fit, longest first.

    Rows with the same free space are interchangeable, as are examples of the same size: each step
    puts as many of these as possible into as many of those.
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


def _fit(sizes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    row_of = np.empty(len(sizes), np.int32)
    unpacked = np.arange(len(sizes))
    num_rows = 0
    while unpacked.size > _FEW:
        part = sizes[unpacked]
        scarcest = int(np.argmax(part.sum(0, dtype=np.int64) / capacity))
        rows = _best_fit(part[:, scarcest], int(capacity[scarcest]))
        if _exceeding(rows, part, capacity) > _FEW_EXCEED:
            dealt = _deal(part, capacity)
            if _exceeding(dealt, part, capacity) < _exceeding(rows, part, capacity):
                rows = dealt
        excess = _excess(rows, part, capacity)
        # Every row keeps at least one example, so that the loop ends.
        _, rows = np.unique(rows[~excess], return_inverse=True)
        row_of[unpacked[~excess]] = num_rows + rows
        num_rows += int(rows.max()) + 1
        unpacked = unpacked[excess]
    row_of[unpacked] = num_rows + _fit_one_by_one(sizes[unpacked], capacity)
    return row_of


def _deal(sizes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Returns the row of each example, int [examples], so that all rows are about equally full.

    Every row has the same number of places, some empty. Place by place, the examples of all rows
    are dealt anew: the emptiest row receives the largest example, as the longest job goes to the
    machine with the least work (Graham 1969, https://doi.org/10.1137/0117039), for two features.
    """
    fractions = sizes / capacity
    scarcity = fractions.sum(0)
    first, second = np.argsort(-scarcity, kind="stable")[:2]
    num_rows = int(np.ceil(scarcity[first] / _FILL))
    places = -(-len(sizes) // num_rows)
    # The sum and the difference: features are often correlated, and so the sum varies the most.
    weight = 1 - (1 - scarcity[second] / scarcity[first]) / _MUCH_LESS_SCARCE
    amounts = np.zeros((places * num_rows, 2))
    amounts[: len(sizes), 0] = fractions[:, first] + max(0, weight) * fractions[:, second]
    amounts[: len(sizes), 1] = fractions[:, first] - fractions[:, second]
    # Empty places have the highest numbers; they are spread.
    examples = np.random.default_rng(_SEED).permutation(places * num_rows)
    examples = examples.reshape(places, num_rows)
    totals = amounts[examples].sum(0)
    for place in examples:
        without_place = totals - amounts[place]
        place[_order(-without_place)] = place[_order(amounts[place])]
        totals = without_place + amounts[place]
    row_of = np.empty(places * num_rows, np.int32)
    row_of[examples] = np.arange(num_rows)
    return row_of[: len(sizes)]


def _order(amounts: np.ndarray) -> np.ndarray:
    """Returns the order of amounts [number, 2] by the first, and within groups by the second.

    Elements at the same place of two sets are then similar in both amounts. The exponent is the
    best of several for 25,000 rows of translations.
    """
    number = len(amounts)
    groups = int(number**0.4)
    group = np.empty(number)
    group[np.argsort(amounts[:, 0], kind="stable")] = np.arange(number) * groups // number
    second = amounts[:, 1]
    # Less than 1, so that one sort is enough.
    within = (second - second.min()) / (np.ptp(second) * 1.001 + 1e-9)
    return np.argsort(group + within, kind="stable")


def _fit_one_by_one(sizes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Puts the largest examples first, each into the fullest row with room, by scarcest feature."""
    row_of = np.empty(len(sizes), np.int32)
    spaces = np.broadcast_to(capacity, sizes.shape).copy()
    for example in np.argsort(-(sizes / capacity).max(1), kind="stable"):
        fits = (spaces >= sizes[example]).all(1)
        row = np.argmin(np.where(fits, (spaces / capacity).min(1), 2.0))
        row_of[example] = row
        spaces[row] -= sizes[example]
    return row_of


def _exceeding(rows: np.ndarray, sizes: np.ndarray, capacity: np.ndarray) -> float:
    exceeds = np.zeros(int(rows.max()) + 1, bool)
    for feature, limit in enumerate(capacity.tolist()):
        exceeds |= np.bincount(rows, sizes[:, feature], exceeds.size) > limit
    return float(exceeds.mean())


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
            # For each row the smallest that is enough, else the largest.
            missing = surplus[rows[candidates]] - size[candidates]
            cost = np.where(missing > 0, limit + missing, -missing)
            candidates = candidates[np.lexsort((cost, rows[candidates]))]
            _, best = np.unique(rows[candidates], return_index=True)
            excess[candidates[best]] = True
    return excess
