"""Where the entries of a larger dimension come from.

Chen et al. 2016, "Net2Net", arXiv:1511.05641, repeat entries and divide what sums over them;
Gesmundo and Maile 2023, arXiv:2308.06103, add entries that nothing reads yet. Both keep the
function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np

Fill = Literal["zero", "initial", "mean"]

_NO_MEANS: Mapping[int, Sequence[int]] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, eq=False)
class DimensionMap:
    """The entries of a dimension of the new model, made from entries of the old model.

    Attributes:
      source: int [new size], the old entry whose value an entry has; -1 for a new entry.
      factor: [new size] of these values.
      share: [new size], how much of the gradient of the old entry a copy gets, before the factor.
      fill: new entries are zero, have their initial values, or the mean of the copied values.
      means: old entries whose mean a new entry is instead, by the new entry.
      rule: the rule, for people.
    """

    source: np.ndarray
    factor: np.ndarray
    share: np.ndarray
    fill: Fill = "zero"
    means: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)
    rule: str = ""

    @property
    def size(self) -> int:
        return len(self.source)

    @property
    def is_new(self) -> np.ndarray:
        return self.source < 0

    @property
    def is_initial(self) -> np.ndarray:
        """Of which entries the initial values are taken."""
        without_mean = np.ones(self.size, bool)
        without_mean[list(self.means)] = False
        return self.is_new & without_mean & (self.fill == "initial")

    @property
    def is_zero(self) -> np.ndarray:
        return self.is_new & (self.fill == "zero")

    @property
    def is_copy(self) -> np.ndarray:
        """Which entries repeat an earlier one."""
        is_first = np.zeros(self.size, bool)
        is_first[np.unique(self.source, return_index=True)[1]] = True
        return np.asarray(~(is_first | self.is_new))

    def of_values(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Returns values along an axis of new size; entries that need initial values are 0."""
        mapped = self._take(values, axis, self.factor)
        if self.fill == "mean":
            mapped = self._fill_with_mean(mapped, axis)
        for entry, old in self.means.items():
            mean = values.take(list(old), axis).mean(axis)
            mapped[(slice(None),) * axis + (entry,)] = mean
        return mapped

    def of_gradients(self, values: np.ndarray, axis: int, power: int) -> np.ndarray:
        """Returns what scales as this power of a gradient; 0 for new entries, or of 2 the mean.

        With the mean of the squares new entries begin with steps of the size of the old ones'.
        """
        mapped = self._take(values, axis, (self.share / self.factor) ** power)
        return self._fill_with_mean(mapped, axis) if power == 2 else mapped

    def _fill_with_mean(self, mapped: np.ndarray, axis: int) -> np.ndarray:
        if not self.is_new.any():
            return mapped
        mean = mapped.compress(~self.is_new, axis).mean(axis, keepdims=True)
        return np.asarray(np.where(_along(self.is_new, axis, mapped.ndim), mean, mapped))

    def _take(self, values: np.ndarray, axis: int, factor: np.ndarray) -> np.ndarray:
        factor = np.where(self.is_new, 0.0, factor).astype(values.dtype)
        taken = values.take(np.maximum(self.source, 0), axis)
        if not (factor == 1.0).all():
            taken = taken * _along(factor, axis, taken.ndim)
        return np.asarray(taken)


def _along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis else 1 for i in range(ndim)])


def placed(
    source: np.ndarray,
    *,
    factor: float = 1.0,
    fill: Fill,
    new: str,
    means: Mapping[int, Sequence[int]] = _NO_MEANS,
) -> DimensionMap:
    """Returns the map in which old entries have the places of `source`, with a factor."""
    one = np.ones(len(source))
    rule = ("" if factor == 1.0 else f"old x {factor:.4g}, ") + new
    is_identity = factor == 1.0 and not means and (source >= 0).all()
    return DimensionMap(source, one * factor, one, fill, means, "" if is_identity else rule)


def first(old: int, new: int) -> np.ndarray:
    """Returns the source of a map in which the old entries are the first ones.

    Examples:
      >>> first(2, 4).tolist()
      [0, 1, -1, -1]
    """
    source = np.arange(new)
    return np.where(source < old, source, -1)


def copies(old: int, new: int, *, is_summed: bool) -> DimensionMap:
    """Returns the map that repeats entries; values that are summed over are divided.

    Examples:
      >>> copies(2, 3, is_summed=True).factor.tolist()
      [0.5, 1.0, 0.5]
    """
    source = np.arange(new) % old
    number = np.bincount(source, minlength=old)[source]
    factor = 1.0 / number if is_summed else np.ones(new)
    rule = "copies, divided" if is_summed else "copies"
    return DimensionMap(source, factor, 1.0 / number, rule=rule)


def side_by_side(half: DimensionMap, old: int) -> DimensionMap:
    """Returns the map of two vectors, one behind the other, from the map of one; `old`: its size.

    Examples:
      >>> side_by_side(copies(1, 2, is_summed=True), 1).source.tolist()
      [0, 0, 1, 1]
    """
    second = np.where(half.is_new, -1, half.source + old)
    source = np.concatenate([half.source, second])
    factor, share = np.tile(half.factor, 2), np.tile(half.share, 2)
    return DimensionMap(source, factor, share, half.fill, rule=half.rule)


def broadcast(number: int, rule: str) -> DimensionMap:
    """Returns the map of one entry to `number` equal ones, which share its gradient."""
    return DimensionMap(
        np.zeros(number, int), np.ones(number), np.full(number, 1.0 / number), rule=rule
    )


def repeat(old: int, times: int, new: int) -> DimensionMap:
    """Returns the map that has each old entry several times in a row, then new entries.

    Examples:
      >>> repeat(2, 2, 5).source.tolist()
      [0, 0, 1, 1, -1]
    """
    source = np.where(np.arange(new) < old * times, np.arange(new) // times, -1)
    one = np.ones(new)
    rule = f"each {times} times, then new" if new > old * times else f"each {times} times"
    return DimensionMap(source, one, one / times, "initial", rule=rule)


def match_places(
    old: Sequence[float] | np.ndarray, new: Sequence[float] | np.ndarray
) -> np.ndarray | None:
    """Returns the source that gives each old entry a place with an equal number; None if none has.

    Examples:
      >>> match_places([1.0, 0.01], [1.0, 0.1, 0.01, 0.001]).tolist()
      [0, -1, 1, -1]
    """
    source = np.full(len(new), -1)
    for entry, number in enumerate(old):
        places = np.flatnonzero(np.isclose(new, number, rtol=1e-6, atol=0.0) & (source < 0))
        if not places.size:
            return None
        source[places[0]] = entry
    return source
