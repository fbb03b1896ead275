"""Maps from the entries of a dimension to the entries of a larger one.

Chen et al. 2016, "Net2Net", arXiv:1511.05641, repeat entries and divide the weights that sum over
them; Gesmundo and Maile 2023, arXiv:2308.06103, add entries that nothing reads yet. Both keep the
function.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mtfrun import mtf

Fill = Literal["zero", "initial", "mean"]


@dataclasses.dataclass(frozen=True, eq=False)
class DimensionMap:
    """Makes the entries of a dimension of the new model from those of the old model.

    Attributes:
      source: int [new size], the old entry that each entry copies; -1 for a new entry.
      factor: the factor of copied entries, one number or [new size].
      fill: the values of new entries: zero, their initial values, or the mean of the copied ones.
      means: the old entries of which a new entry is the mean instead, by the new entry.
      rule: a text for people; by default it says `factor` and `fill`, "" if nothing changes.
    """

    source: np.ndarray
    factor: float | np.ndarray = 1.0
    fill: Fill = "initial"
    means: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)
    rule: str | None = None

    @property
    def is_new(self) -> np.ndarray:
        return self.source < 0

    @property
    def is_initial(self) -> np.ndarray:
        """Which entries have their initial values."""
        has_mean = np.isin(np.arange(len(self.source)), list(self.means))
        return self.is_new & ~has_mean & (self.fill == "initial")

    @property
    def is_zero(self) -> np.ndarray:
        return self.is_new & (self.fill == "zero")

    @property
    def is_copy(self) -> np.ndarray:
        """Which entries repeat an earlier entry."""
        is_first = np.zeros(len(self.source), bool)
        is_first[np.unique(self.source, return_index=True)[1]] = True
        return np.asarray(~(is_first | self.is_new))

    def map_values(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Returns the values with the new size along `axis`; entries with initial values are 0."""
        mapped = self._take(values, axis, self.factor)
        if self.fill == "mean":
            mapped = self._fill_with_mean(mapped, axis)
        for entry, old in self.means.items():
            mean = values.take(list(old), axis).mean(axis)
            mapped[(slice(None),) * axis + (entry,)] = mean
        return mapped

    def map_gradients(self, values: np.ndarray, axis: int, power: int) -> np.ndarray:
        """Maps an average of gradients (power 1) or of their squares (power 2).

        Copies share the gradient of the old entry. New entries are 0; their squares are the mean of
        the copied ones, so that their first steps are as large.
        """
        copies = np.bincount(self.source[~self.is_new], minlength=values.shape[axis])
        shares = 1.0 / np.maximum(copies, 1)[self.source]
        mapped = self._take(values, axis, (shares / self.factor) ** power)
        return self._fill_with_mean(mapped, axis) if power == 2 else mapped

    def describe(self) -> str:
        if self.rule is not None:
            return self.rule
        is_scaled = isinstance(self.factor, float) and self.factor != 1.0
        if not (is_scaled or self.means or self.is_new.any()):
            return ""
        scaled = f"old x {self.factor:.4g}, " if is_scaled else ""
        return f"{scaled}new {'0' if self.fill == 'zero' else self.fill}"

    def _fill_with_mean(self, mapped: np.ndarray, axis: int) -> np.ndarray:
        if not self.is_new.any():
            return mapped
        mean = mapped.compress(~self.is_new, axis).mean(axis, keepdims=True)
        return np.asarray(np.where(_along(self.is_new, axis, mapped.ndim), mean, mapped))

    def _take(self, values: np.ndarray, axis: int, factor: float | np.ndarray) -> np.ndarray:
        factor = np.where(self.is_new, 0.0, factor).astype(values.dtype)
        taken = values.take(np.maximum(self.source, 0), axis)
        return np.asarray(taken * _along(factor, axis, taken.ndim))


def _along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis else 1 for i in range(ndim)])


def first(old: int, new: int) -> np.ndarray:
    """Returns the source of a map that puts the old entries first.

    >>> first(2, 4).tolist()
    [0, 1, -1, -1]
    """
    source = np.arange(new)
    return np.where(source < old, source, -1)


def copies(old: int, new: int, *, is_summed: bool) -> DimensionMap:
    """Returns the map that repeats entries, divided by their number if they are summed over.

    >>> copies(2, 3, is_summed=True).factor.tolist()
    [0.5, 1.0, 0.5]
    """
    source = np.arange(new) % old
    if not is_summed:
        return DimensionMap(source, rule="copies")
    return DimensionMap(source, 1.0 / np.bincount(source)[source], rule="copies, divided")


def twice(source: np.ndarray, old: int) -> np.ndarray:
    """Returns the source for two concatenated vectors of `old` entries, from the source for one.

    >>> twice(first(2, 3), 2).tolist()
    [0, 1, -1, 2, 3, -1]
    """
    return np.concatenate([source, np.where(source < 0, -1, source + old)])


def match_places(
    old: Sequence[float] | np.ndarray, new: Sequence[float] | np.ndarray
) -> np.ndarray | None:
    """Returns the source that matches equal numbers; None if an old number has no match.

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


@dataclasses.dataclass(frozen=True, eq=False)
class VariableMap:
    """The maps of all dimensions of a variable, and a factor.

    Attributes:
      view: the old dimensions, some of them split; values are averaged over those not in `axes`.
      axes: the map of each new dimension, and its name in `view`, None if the old value lacks it.
      shape: the new shape, which may merge some of `axes`.
      factor: the factor of (value + offset); `offset`: see `layers.RMSNorm`.
    """

    view: Sequence[mtf.Dimension]
    axes: Sequence[tuple[str | None, DimensionMap]]
    shape: mtf.Shape
    factor: float = 1.0
    offset: float = 0.0

    def map_values(self, values: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """Returns the new value; entries with initial values are those of `initial`."""
        x = self._arrange(values)
        for axis, (_, dim_map) in enumerate(self.axes):
            x = dim_map.map_values(x, axis)
        x = (x + self.offset) * self.factor - self.offset
        x = np.where(self._marks("is_initial"), initial.reshape(x.shape), x)
        x = np.where(self._marks("is_zero"), np.float32(0.0), x)
        grown: np.ndarray = x.reshape(self.shape.to_integer_list)
        return grown

    def map_gradients(self, values: np.ndarray, power: int) -> np.ndarray:
        """Maps an average of gradients (power 1), such as Adam's m, or of squares (2), such as v.

        The function stays the same, so a factor of the values divides the gradients.
        """
        x = self._arrange(values, is_gradient=True) * np.float32(self.factor**-power)
        for axis, (_, dim_map) in enumerate(self.axes):
            x = dim_map.map_gradients(x, axis, power)
        grown: np.ndarray = x.reshape(self.shape.to_integer_list)
        return grown

    def differences(self, value: np.ndarray, seed: int) -> np.ndarray:
        """Returns normal noise, as large as the root mean square, for copies; 0 elsewhere."""
        size = np.sqrt(np.mean(np.square(value), dtype=np.float64))
        marks = self._marks("is_copy")
        numbers = np.random.default_rng(seed).standard_normal(marks.shape, np.float32)
        differences: np.ndarray = (numbers * np.float32(size) * marks).reshape(value.shape)
        return differences

    def describe(self) -> str:
        """Returns a text such as "d_model: old x 1.414, new 0"."""
        rules = [
            f"{name}: {rule}" if name else rule
            for name, dim_map in self.axes
            if (rule := dim_map.describe())
        ]
        names = {name for name, _ in self.axes}
        rules += [f"mean over {dim}" for dim in self.view if dim.name not in names]
        if self.factor != 1.0:
            rules.append(f"x {self.factor:.4g}")
        return "; ".join(rules) or "as it was"

    def _arrange(self, values: np.ndarray, *, is_gradient: bool = False) -> np.ndarray:
        """Returns the value with the dimensions of `axes`; those without a name have size 1."""
        names = [dim.name for dim in self.view]
        wanted = [name for name, _ in self.axes if name is not None]
        x = values.astype(np.float32).reshape([dim.size for dim in self.view])
        dropped = [i for i, name in enumerate(names) if name not in wanted]
        if dropped:
            x = (np.sum if is_gradient else np.mean)(x, axis=tuple(dropped))
        remaining = [name for name in names if name in wanted]
        x = x.transpose([remaining.index(name) for name in wanted])
        return np.expand_dims(x, [i for i, (name, _) in enumerate(self.axes) if name is None])

    def _marks(self, kind: str) -> np.ndarray:
        """Returns which entries of the value are of a kind along some dimension."""
        marks = [getattr(dim_map, kind) for _, dim_map in self.axes]
        return functools.reduce(np.logical_or.outer, marks, np.zeros([], bool))
