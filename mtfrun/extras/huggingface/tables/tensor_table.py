"""The two-way table of a folder's tensors and our variables."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from mtfrun.experiment.conversion.importer import ConversionError

Shape = tuple[int, ...]
Order = Callable[[int], Sequence[int]]

_CHANGED = "the model is not the imported model"


class Transform(Protocol):
    """A reversible, bit-exact rearrangement of arrays."""

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns the values of our variables of these shapes."""

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the tensors of the folder."""


class _Each:
    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        return [self.ours(value, shape) for value, shape in zip(theirs, shapes, strict=True)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.theirs(value) for value in ours]

    def ours(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        return reshape(value, shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return value


@dataclasses.dataclass(frozen=True)
class Flat(_Each):
    """All but our last `kept` dimensions are one in the folder: biases {heads, d_kv}."""

    kept: int = 0

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return value.reshape(-1, *value.shape[value.ndim - self.kept :])


SAME, HEAD_ROWS = _Each(), Flat(kept=1)
"""The same dimensions: scales, embeddings; and [heads, d_kv] of possibly grouped heads: norms."""


@dataclasses.dataclass(frozen=True)
class Matrix(_Each):
    """Our first `inputs` dimensions are inputs; `transposed`: theirs is [outputs, inputs]."""

    inputs: int = 1
    transposed: bool = True

    def ours(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        """Returns {inputs..., outputs...}."""
        sides = (math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :]))
        return reshape(reshape(value.T if self.transposed else value, sides), shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        matrix = value.reshape(math.prod(value.shape[: self.inputs]), -1)
        return matrix.T if self.transposed else matrix


@dataclasses.dataclass(frozen=True)
class VocabularyRows(_Each):
    """`size` rows or biases, zero-padded here; our table is {d_model, vocab} if `transposed`."""

    size: int
    transposed: bool = False

    def ours(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        rows, *width = shape[::-1] if self.transposed else shape
        if value.ndim != len(shape) or value.shape[0] != self.size:
            raise _Misshaped
        table = np.pad(value, [(0, max(rows - self.size, 0)), *((0, 0) for _ in width)])
        return reshape(table.T if self.transposed else table, shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return (value.T if self.transposed else value)[: self.size]


@dataclasses.dataclass(frozen=True)
class OneRow(_Each):
    """[1, ...] in the folder: biases of logits."""

    row: _Each

    def ours(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        if value.shape[:1] != (1,):
            raise _Misshaped
        return self.row.ours(value[0], shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return self.row.theirs(value)[np.newaxis]


@dataclasses.dataclass(frozen=True)
class Permuted(_Each):
    """The same dimensions in another order, `axes`: filters of convolutions."""

    axes: tuple[int, ...]

    def ours(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        if value.ndim != len(self.axes):
            raise _Misshaped
        return reshape(value.transpose(self.axes), shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return value.transpose(np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Several tensors in the folder, one variable here, whose last `dims` are a tensor's."""

    each: Transform
    dims: int = 2

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        (shape,) = shapes
        values = np.stack(self.each.to_ours(theirs, [shape[-self.dims :]] * len(theirs)))
        if values.size != math.prod(shape):
            raise _Misshaped
        return [values.reshape(shape)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        (value,) = ours
        return self.each.to_theirs(list(value.reshape(-1, *value.shape[-self.dims :])))


@dataclasses.dataclass(frozen=True)
class Joined:
    """One tensor with several of our variables joined along `axis`: queries, keys, values.

    The tensor has the outputs of head 0, then head 1, ...; `heads` may be groups of queries with
    one key, or 1.
    """

    each: Transform
    heads: int = 1
    axis: int = 0

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        (value,) = theirs
        sizes = [math.prod(shape) for shape in shapes]
        is_whole = value.ndim > self.axis and value.shape[self.axis] % self.heads == 0
        if not is_whole or value.size != sum(sizes):
            raise _Misshaped
        by_head = self._by_head(value)
        ends = np.cumsum(sizes) * by_head.shape[self.axis + 1] // value.size
        parts = np.split(by_head, ends[:-1], self.axis + 1)
        return self.each.to_ours([self._flat(part) for part in parts], shapes)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        values = [self._by_head(value) for value in self.each.to_theirs(ours)]
        return [self._flat(np.concatenate(values, self.axis + 1))]

    def _by_head(self, value: np.ndarray) -> np.ndarray:
        before, behind = value.shape[: self.axis], value.shape[self.axis + 1 :]
        return value.reshape(*before, self.heads, -1, *behind)

    def _flat(self, value: np.ndarray) -> np.ndarray:
        return value.reshape(*value.shape[: self.axis], -1, *value.shape[self.axis + 2 :])


@dataclasses.dataclass(frozen=True)
class Reordered:
    """Another order of our last dimension; `order` maps its size, once it is checked."""

    each: Transform
    order: Order

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        ours = self.each.to_ours(theirs, shapes)
        return [value[..., list(self.order(value.shape[-1]))] for value in ours]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        theirs = [value[..., np.argsort(self.order(value.shape[-1]))] for value in ours]
        return self.each.to_theirs(theirs)


def halves_of_pairs(rotated: int, size: int) -> tuple[int, ...]:
    """Returns the order that turns adjacent rotated pairs into two halves.

    Examples:
      >>> halves_of_pairs(4, 6)
      (0, 2, 1, 3, 4, 5)
    """
    return (*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, size))


class _Misshaped(Exception):
    """An array has other sizes than expected."""


def reshape(value: np.ndarray, shape: Shape) -> np.ndarray:
    """Reshapes, but refuses swapped sizes of equally many dimensions."""
    if value.size != math.prod(shape) or (value.ndim == len(shape) and value.shape != shape):
        raise _Misshaped
    return value.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Row:
    """Tensors of the folder and variables of ours with the same values."""

    names: Sequence[str]
    paths: Sequence[str]
    transform: Transform


Names = str | Sequence[str]


class TensorTable:
    """The rows of a model, in names of a folder that lacks the prefix `missing`.

    `transposed`: see `Matrix`; `kept` has patterns of unused tensors, stored for the export.
    """

    def __init__(self, missing: str = "", *, transposed: bool = True) -> None:
        self.rows: list[Row] = []
        self.kept: list[str] = []
        self._missing, self._transposed = missing, transposed

    def add(self, names: Names, paths: Names, transform: Transform = SAME) -> None:
        names, paths = ((x,) if isinstance(x, str) else x for x in (names, paths))
        names = [name.removeprefix(self._missing) for name in names]
        self.rows.append(Row(tuple(names), tuple(paths), transform))

    def keep(self, *patterns: str) -> None:
        self.kept += [x.removeprefix(re.escape(self._missing)) for x in patterns]

    def norm(self, theirs: str, ours: str, *, has_bias: bool = True) -> None:
        self.add(f"{theirs}.weight", f"{ours}/scale")
        if has_bias:
            self.add(f"{theirs}.bias", f"{ours}/bias")

    def dense(self, theirs: str, *ours: str, has_bias: bool = True, inputs: int = 1) -> None:
        """Adds a module with one or several of our layers."""
        self._add_joined(f"{theirs}.weight", [f"{x}/kernel" for x in ours], self._matrix(inputs))
        if has_bias:
            self._add_joined(f"{theirs}.bias", [f"{path}/bias" for path in ours], SAME)

    def feed_forward(
        self, theirs: Sequence[str], ours: str, *, is_gated: bool = False, has_bias: bool = True
    ) -> None:
        """`theirs`: the modules of "wi", or of "wi_0" and "wi_1", perhaps in one, and of "wo"."""
        *inner, output = theirs
        names = ("wi_0", "wi_1") if is_gated else ("wi",)
        for module, parts in [*_distribute(names, inner), (output, ["wo"])]:
            self.dense(module, *(f"{ours}/{name}" for name in parts), has_bias=has_bias)

    def attention(
        self,
        theirs: Sequence[str],
        ours: str,
        *,
        biases: tuple[bool, bool] = (True, True),
        inputs: int = 2,
        heads: int = 1,
        order: Order | None = None,
    ) -> None:
        """`theirs`: the modules of queries, keys and values, perhaps in one, and of the output.

        biases: whether queries, keys and values have biases, and whether the output has one;
        inputs: our number of inputs of the output; heads: see `Joined`; order: of the entries of
        queries and keys, see `Reordered`.
        """
        *projections, output = theirs
        for module, parts in _distribute(("query", "key", "value"), projections):
            paths = [f"{ours}/{name}" for name in parts]
            used_order = None if parts[0] == "value" else order
            self._add_joined(f"{module}.weight", paths, self._matrix(1), heads, used_order)
            if biases[0]:
                paths = [f"{path}_bias" for path in paths]
                self._add_joined(f"{module}.bias", paths, Flat(), heads, used_order)
        self.add(f"{output}.weight", f"{ours}/output", self._matrix(inputs))
        if biases[1]:
            self.add(f"{output}.bias", f"{ours}/output_bias")

    def _matrix(self, inputs: int) -> Matrix:
        return Matrix(inputs, self._transposed)

    def _add_joined(
        self,
        name: str,
        paths: Sequence[str],
        form: Transform,
        heads: int = 1,
        order: Order | None = None,
    ) -> None:
        """Adds a tensor with one or several of our variables; see `Joined`."""
        if len(paths) > 1:
            is_matrix = isinstance(form, Matrix) and not form.transposed
            form = Joined(form, heads, 1 if is_matrix else 0)
        self.add(name, paths, form if order is None else Reordered(form, order))

    def is_kept(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.kept)

    def check_names(self, tensors: Collection[str], where: object) -> None:
        """Raises ConversionError unless a folder has exactly the tensors of the table."""
        needed = {name for row in self.rows for name in row.names}
        missing = [name for row in self.rows for name in row.names if name not in tensors]
        surplus = [
            name for name in sorted(tensors) if name not in needed and not self.is_kept(name)
        ]
        if missing:
            raise ConversionError(f"{where} lacks {_as_list(missing)}, which config.json asks for")
        if surplus:
            raise ConversionError(f"{where} has {_as_list(surplus)}, unknown to config.json")

    def to_ours(
        self, read: Callable[[str], np.ndarray], shapes: Mapping[str, Shape], where: object
    ) -> dict[str, np.ndarray]:
        """Returns values by path, in the folder's dtypes; ConversionError for unexpected sizes."""
        values: dict[str, np.ndarray] = {}
        for entry in self.rows:
            theirs = [read(name) for name in entry.names]
            try:
                ours = entry.transform.to_ours(theirs, [shapes[path] for path in entry.paths])
            except _Misshaped as error:
                sizes = " x ".join(map(str, theirs[0].shape))
                raise ConversionError(
                    f"{where}: {entry.names[0]} has sizes {sizes}, which do not fit config.json"
                ) from error
            values.update(zip(entry.paths, ours, strict=True))
        return values

    def to_theirs(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns tensors by name; ConversionError if paths differ from the table's."""
        tensors: dict[str, np.ndarray] = {}
        used: set[str] = set()
        for entry in self.rows:
            used.update(entry.paths)
            try:
                theirs = entry.transform.to_theirs([values[path] for path in entry.paths])
                tensors.update(zip(entry.names, theirs, strict=True))
            except KeyError as error:
                raise ConversionError(f"the model has no variable {error}: {_CHANGED}") from error
            except (ValueError, IndexError) as error:
                sizes = " x ".join(map(str, values[entry.paths[0]].shape))
                raise ConversionError(
                    f"{entry.paths[0]} has sizes {sizes}, which do not fit config.json: {_CHANGED}"
                ) from error
        surplus = sorted(values.keys() - used)
        if surplus:
            raise ConversionError(f"config.json has no place for {_as_list(surplus)}: {_CHANGED}")
        return tensors


def _as_list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _distribute(
    names: Sequence[str], modules: Sequence[str]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields each module with its names: all for a single module."""
    parts = [names] if len(modules) == 1 else [[name] for name in names]
    return zip(modules, parts, strict=True)
