"""Named dimensions, shapes (ordered sets of them), and how shapes broadcast by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from mtfrun.errors import ShapeError, did_you_mean


class Dimension(NamedTuple):
    """A name and a size; two dimensions are equal when both are. As text it is "name:size"."""

    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}:{self.size}"


DimensionLike: TypeAlias = Dimension | tuple[str, int] | str

# Positions along a dimension are 32-bit integers.
MAX_SIZE = 2**31 - 1

_TEXT = re.compile(r"^\s*([^\s:;,.]+)\s*:\s*(\d+)\s*$")


def convert_to_dimension(d: DimensionLike) -> Dimension:
    """Returns the dimension of a `Dimension`, (name, size) or "name:size"; else a ShapeError."""
    if isinstance(d, str):
        match = _TEXT.match(d)
        if match is None:
            raise ShapeError(f"{d!r} is not a dimension: write 'name:size'")
        d = (match[1], int(match[2]))
    try:
        name, size = d
    except (TypeError, ValueError):
        raise ShapeError(
            f"{d!r} is not a dimension: give a Dimension, (name, size) or 'name:size'"
        ) from None
    if not isinstance(name, str) or not name:
        raise ShapeError(f"a dimension's name must be a non-empty string, got {name!r}")
    if int(size) != size or size < 1:
        raise ShapeError(f"dimension {name!r} must have a size of at least 1, got {size!r}")
    if size > MAX_SIZE:
        raise ShapeError(f"dimension {name!r} must have a size of at most {MAX_SIZE}, got {size}")
    return Dimension(name, int(size))


class Shape:
    """An ordered set of dimensions with distinct names (else a ShapeError); immutable and hashable.

    Examples:
      >>> Shape([Dimension("batch", 8), Dimension("length", 128)]) - Dimension("batch", 8)
      Shape(length:128)
    """

    __slots__ = ("_dims", "_hash")

    def __init__(self, dims: Iterable[DimensionLike] = ()):
        self._dims = tuple(map(convert_to_dimension, dims))
        self._hash = hash(self._dims)
        names = [d.name for d in self._dims]
        if len(set(names)) != len(names):
            repeated = next(n for n in names if names.count(n) > 1)
            raise ShapeError(f"dimension {repeated!r} occurs twice in {self}: rename one of them")

    @property
    def dims(self) -> list[Dimension]:
        return list(self._dims)

    @property
    def ndims(self) -> int:
        return len(self._dims)

    @property
    def size(self) -> int:
        """The number of elements; 1 for a scalar."""
        return math.prod(d.size for d in self._dims)

    @property
    def dimension_names(self) -> list[str]:
        return [d.name for d in self._dims]

    @property
    def to_integer_list(self) -> list[int]:
        return [d.size for d in self._dims]

    @property
    def to_string(self) -> str:
        """The text that `convert_to_shape` parses."""
        return ";".join(map(str, self._dims))

    def get_dim_by_name(self, name: str) -> Dimension:
        """Returns the dimension called `name`; a ShapeError has the most similar name."""
        for dim in self._dims:
            if dim.name == name:
                return dim
        hint = did_you_mean(name, self.dimension_names)
        raise ShapeError(f"no dimension {name!r} in {self}{hint}")

    def index(self, dim: Dimension) -> int:
        """Returns the position of `dim`, or raises a ShapeError with the dimension most like it."""
        if dim in self._dims:
            return self._dims.index(dim)
        hint = did_you_mean(dim.name, self.dimension_names)
        for same in self._dims:
            if same.name == dim.name:
                hint = f": its {dim.name!r} has size {same.size}"
        raise ShapeError(f"no dimension {dim} in {self}{hint}")

    def rename_dimension(self, old_name: str, new_name: str) -> Shape:
        old = self.get_dim_by_name(old_name)
        return Shape(Dimension(new_name, d.size) if d == old else d for d in self._dims)

    def resize_dimension(self, name: str, new_size: int) -> Shape:
        old = self.get_dim_by_name(name)
        return Shape(Dimension(name, new_size) if d == old else d for d in self._dims)

    def __add__(self, other: ShapeLike) -> Shape:
        return Shape(self._dims + convert_to_shape(other)._dims)

    def __radd__(self, other: ShapeLike) -> Shape:
        return convert_to_shape(other) + self

    def __sub__(self, other: ShapeLike | None) -> Shape:
        if other is None:
            return self
        removed = convert_to_shape(other)._dims
        return Shape(d for d in self._dims if d not in removed)

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self._dims)

    def __len__(self) -> int:
        return len(self._dims)

    def __getitem__(self, index: int) -> Dimension:
        return self._dims[index]

    def __contains__(self, dim: object) -> bool:
        return dim in self._dims

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self._dims == other._dims

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Shape({self.to_string})"


ShapeLike: TypeAlias = Shape | Sequence[DimensionLike] | Dimension | str


def convert_to_shape(x: ShapeLike) -> Shape:
    """Returns the shape of dimensions, or of "name:size" separated by `;`, `,`, `.` or spaces."""
    if isinstance(x, Shape):
        return x
    if isinstance(x, Dimension):
        return Shape([x])
    if isinstance(x, str):
        return Shape(part for part in re.split(r"[;,.\s]+", x.strip()) if part)
    try:
        return Shape(x)
    except TypeError:
        raise ShapeError(f"{x!r} is not a shape: give dimensions or 'name:size;...'") from None


def anonymous_shape(shape: ShapeLike) -> Shape:
    """Returns a shape of the same sizes, with names that have no layout rule.

    Examples:
      >>> anonymous_shape("batch:8;length:128")
      Shape(_anonymous_0:8;_anonymous_1:128)
    """
    sizes = convert_to_shape(shape).to_integer_list
    return Shape(Dimension(f"_anonymous_{i}", size) for i, size in enumerate(sizes))


def combined_dimension(dims: Sequence[DimensionLike], name: str | None = None) -> Dimension:
    """Returns a dimension with the total size of several, called `name` or as the first of them.

    Examples:
      >>> combined_dimension(["rows:3", "columns:4"])
      Dimension(name='rows', size=12)
    """
    shape = Shape(dims)
    if not shape.ndims:
        raise ShapeError("combined_dimension needs at least one dimension")
    return Dimension(name or shape[0].name, shape.size)


def is_subsequence(short_seq: Sequence[Dimension], long_seq: Sequence[Dimension]) -> bool:
    """Returns whether the items of `short_seq` occur in `long_seq` in the same order."""
    remaining = iter(long_seq)
    return all(dim in remaining for dim in short_seq)


def union(*shapes: Shape) -> Shape:
    """Returns all dimensions of the shapes, in order of first appearance."""
    return Shape(dict.fromkeys(dim for shape in shapes for dim in shape))


def verify_no_new_dims(input_shapes: Iterable[ShapeLike], output_shape: ShapeLike) -> None:
    """Raises a ShapeError if the output has a dimension that no input has."""
    input_dims = union(*(convert_to_shape(shape) for shape in input_shapes))
    for dim in convert_to_shape(output_shape):
        input_dims.index(dim)


def broadcast_shape(shape1: Shape, shape2: Shape) -> Shape:
    """Returns the longer shape if it contains the other in order, else their union."""
    if is_subsequence(shape1.dims, shape2.dims):
        return shape2
    if is_subsequence(shape2.dims, shape1.dims):
        return shape1
    return union(shape1, shape2)
