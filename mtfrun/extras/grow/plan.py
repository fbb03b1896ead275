"""How one variable of a larger model, and its slots, are made from a smaller model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.extras.grow.dimension_map import DimensionMap


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The maps of all dimensions of a variable, and a factor.

    Attributes:
      view: the old dimensions, some of them split; a value has the mean over those not in `axes`.
      axes: the name of every dimension of the new value in `view`, None where there is none, and
        its map. `shape` may have some of them as one.
      factor: the factor of (value + offset); `offset`: see `layers.RMSNorm`.
    """

    view: Sequence[mtf.Dimension]
    axes: Sequence[tuple[str | None, DimensionMap]]
    shape: mtf.Shape
    factor: float = 1.0
    offset: float = 0.0

    def of_values(self, values: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """Returns the new value; `initial`: where entries have their initial values."""
        x = self._arrange(values)
        for axis, (_, of_dim) in enumerate(self.axes):
            x = of_dim.of_values(x, axis)
        x = (x + self.offset) * self.factor - self.offset
        x = np.where(self._marks("is_initial"), initial.reshape(x.shape), x)
        x = np.where(self._marks("is_zero"), np.float32(0.0), x)
        grown: np.ndarray = x.reshape(self.shape.to_integer_list)
        return grown

    def of_gradients(self, values: np.ndarray, power: int) -> np.ndarray:
        """Returns what scales as this power of the gradients, such as Adam's m and v.

        The function stays, so that gradients change inversely to the values.
        """
        x = self._arrange(values, is_gradient=True) * np.float32(self.factor**-power)
        for axis, (_, of_dim) in enumerate(self.axes):
            x = of_dim.of_gradients(x, axis, power)
        grown: np.ndarray = x.reshape(self.shape.to_integer_list)
        return grown

    def differences(self, value: np.ndarray, seed: int) -> np.ndarray:
        """Returns normal numbers of the size of the value where entries repeat, 0 elsewhere."""
        rng = np.random.default_rng(seed)
        size = np.sqrt(np.mean(np.square(value), dtype=np.float64))
        marks = self._marks("is_copy")
        shape = np.broadcast_shapes(marks.shape, [of_dim.size for _, of_dim in self.axes])
        numbers = rng.standard_normal(shape, np.float32) * np.float32(size)
        differences: np.ndarray = (numbers * marks).reshape(value.shape)
        return differences

    def describe(self) -> str:
        """Returns a text such as "d_model: old x 1.414, new 0"."""
        rules = [
            f"{name}: {of_dim.rule}" if name else of_dim.rule
            for name, of_dim in self.axes
            if of_dim.rule
        ]
        names = {name for name, _ in self.axes}
        rules += [f"mean over {dim}" for dim in self.view if dim.name not in names]
        if self.factor != 1.0:
            rules.append(f"x {self.factor:.4g}")
        return "; ".join(rules) or "as it was"

    def _arrange(self, values: np.ndarray, *, is_gradient: bool = False) -> np.ndarray:
        """Returns the value with the dimensions of `axes`, those without a name of size 1."""
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
        """Returns where any dimension has entries of a kind."""
        marks = np.zeros([1] * len(self.axes), bool)
        for axis, (_, of_dim) in enumerate(self.axes):
            shape = [-1 if i == axis else 1 for i in range(len(self.axes))]
            marks = marks | getattr(of_dim, kind).reshape(shape)
        return marks
