"""Widths of a model relative to its base model, for which hyperparameters were tuned."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mtfrun.mtf.shape import Dimension


class Growth(NamedTuple):
    """The growth of the two sides of a variable relative to the base sizes.

    `fan_in` is the growth of the dimensions that a product with the variable sums over, `fan_out`
    of the other dimensions. With `is_output` only the former grow with the width of the model.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0
    is_output: bool = False


SAME_SIZE = Growth()


@dataclasses.dataclass(frozen=True)
class Widths:
    """The dimensions that grow with the width of a model: size / base size by name.

    A name with an underscore before it is the same dimension, see `layers.Dense`.

    Examples:
      >>> Widths({"d_model": 4.0}).growth([Dimension("_d_model", 512), Dimension("d_ff", 512)])
      4.0
    """

    by_name: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def growth(self, dims: Iterable[Dimension]) -> float:
        """Returns the growth of the product of the sizes."""
        return math.prod(self.by_name.get(plain_name(dim), 1.0) for dim in dims)

    def grow(self, dims: Iterable[Dimension]) -> bool:
        """Returns whether any of the dimensions grows with the width, now at its base size or not.

        The rules of a parametrization are powers of the growth, and depend on this.
        """
        return any(plain_name(dim) in self.by_name for dim in dims)

    def growth_of(self, reduced: Iterable[Dimension], remaining: Iterable[Dimension]) -> Growth:
        """Returns the growth of a variable; products with it sum over `reduced`."""
        reduced, remaining = tuple(reduced), tuple(remaining)
        is_output = self.grow(reduced) and not self.grow(remaining)
        return Growth(self.growth(reduced), self.growth(remaining), is_output)


NO_GROWTH = Widths()


def plain_name(dim: Dimension) -> str:
    """Returns the name without an underscore before it."""
    return dim.name.removeprefix("_")


def smallest_sizes(shapes: Iterable[Iterable[Dimension]]) -> dict[str, int]:
    """Returns the smallest size of each name, without an underscore before it."""
    sizes: dict[str, int] = {}
    for dim in itertools.chain.from_iterable(shapes):
        name = plain_name(dim)
        sizes[name] = min(dim.size, sizes.get(name, dim.size))
    return sizes
