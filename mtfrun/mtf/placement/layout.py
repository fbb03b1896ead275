"""Layout rules: which tensor dimension is split over which mesh axis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from mtfrun.errors import LayoutError
from mtfrun.mtf.shape import (
    Dimension,
    DimensionLike,
    Shape,
    ShapeLike,
    convert_to_dimension,
    convert_to_shape,
)

SLOTS, WEIGHTS = "slots", "weights"
"""Rules that name no dimension, see `zero`."""


class LayoutRules(Mapping[str, str]):
    """A mapping from tensor dimension names to mesh axis names; immutable and hashable.

    The rules "slots:axis" and "weights:axis" do not name a dimension, see `zero`. A LayoutError if
    a dimension has two mesh axes.

    Examples:
      >>> LayoutRules([("batch", "data"), ("d_ff", "model")])["d_ff"]
      'model'
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()):
        rules: dict[str, str] = {}
        for dimension, axis in pairs:
            if rules.setdefault(dimension, axis) != axis:
                axes = f"{rules[dimension]!r} and {axis!r}"
                raise LayoutError(f"layout maps dimension {dimension!r} to both {axes}: keep one")
        self._rules = rules

    def __getitem__(self, dimension: str) -> str:
        return self._rules[dimension]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._rules.items())))

    def __repr__(self) -> str:
        return f"LayoutRules({self.to_string})"

    @property
    def to_string(self) -> str:
        """The text that `convert_to_layout_rules` parses."""
        return ";".join(f"{dimension}:{axis}" for dimension, axis in self._rules.items())


LayoutLike: TypeAlias = LayoutRules | Iterable[tuple[str, str]] | str


def convert_to_layout_rules(x: LayoutLike) -> LayoutRules:
    """Returns the rules of pairs, or of "dimension:axis" separated by `;`, `,`, `.` or spaces."""
    if isinstance(x, LayoutRules):
        return x
    if not isinstance(x, str):
        try:
            pairs = [(dimension, axis) for dimension, axis in x]
        except (TypeError, ValueError):
            raise LayoutError(
                f"{x!r} is not a layout: write 'dimension:axis;dimension:axis' or \"\""
            ) from None
        return LayoutRules(pairs)
    pairs = []
    for part in re.split(r"[;,.\s]+", x.strip()):
        if not part:
            continue
        names = part.split(":")
        if len(names) != 2 or not all(names):
            raise LayoutError(f"{part!r} is not a layout rule: write 'dimension:axis'")
        pairs.append((names[0], names[1]))
    return LayoutRules(pairs)


def tensor_dim_to_mesh_dim_size(
    layout: LayoutLike, mesh_shape: ShapeLike, tensor_dim: DimensionLike
) -> int:
    """Returns the number of parts that a layout splits a dimension into."""
    axis = convert_to_layout_rules(layout).get(convert_to_dimension(tensor_dim).name)
    sizes = {dim.name: dim.size for dim in convert_to_shape(mesh_shape)}
    return sizes.get(axis, 1) if axis else 1


def tensor_dim_to_size_per_split(
    layout: LayoutLike, mesh_shape: ShapeLike, tensor_dim: DimensionLike
) -> int:
    """Returns the size of a dimension's part on one device; a LayoutError if parts are unequal."""
    dim = convert_to_dimension(tensor_dim)
    parts = tensor_dim_to_mesh_dim_size(layout, mesh_shape, dim)
    check_divides(parts, dim, f"into {parts} parts")
    return dim.size // parts


def check_divides(parts: int, dim: Dimension, how: str, shape: Shape | None = None) -> None:
    """Raises a LayoutError, "cannot be split {how}", unless a dimension has equal parts."""
    if dim.size % parts:
        owner = "" if shape is None else f" of {shape}"
        raise LayoutError(
            f"dimension {dim}{owner} cannot be split {how}: make its size "
            f"{legal_sizes(parts, dim)}, or change the mesh or the rule"
        )


def legal_sizes(parts: int, dim: Dimension) -> str:
    """Returns the nearest sizes that can be split: "6 or 9"."""
    below, above = dim.size // parts * parts, (dim.size // parts + 1) * parts
    return f"{below} or {above}" if below else f"{above}"
