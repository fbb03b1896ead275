"""The two-way table between the tensors of a folder and the variables of a model of ours."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from mtfrun.tools.conversion.errors import ConversionError

Shape = tuple[int, ...]

_CHANGED = "the model is not the one that was imported"


class Transform(Protocol):
    """A reversible change of the form of one or several arrays; no arithmetic, bits stay."""

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns the values of our variables, whose shapes are given."""

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the tensors of the folder."""


class Same:
    """The same dimensions in the same order: scales, embeddings."""

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns the arrays in the shapes."""
        return [reshaped(value, shape) for value, shape in zip(theirs, shapes, strict=True)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the arrays."""
        return list(ours)


class Flat:
    """One dimension in the folder, several of ours: biases {heads, d_kv}."""

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns the arrays in the shapes."""
        return [reshaped(value, shape) for value, shape in zip(theirs, shapes, strict=True)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns vectors."""
        return [value.reshape(-1) for value in ours]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix of the folder, of which each side may be several dimensions of ours.

    Attributes:
      inputs: how many of our dimensions, the first ones, are the inputs.
      transposed: the folder has the outputs first, as torch.nn.Linear does: [out, in].
    """

    inputs: int = 1
    transposed: bool = True

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns {inputs..., outputs...}."""
        values = []
        for value, shape in zip(theirs, shapes, strict=True):
            sides = (math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :]))
            matrix = value.T if self.transposed else value
            values.append(reshaped(reshaped(matrix, sides), shape))
        return values

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns matrices."""
        values = [value.reshape(math.prod(value.shape[: self.inputs]), -1) for value in ours]
        return [value.T if self.transposed else value for value in values]


@dataclasses.dataclass(frozen=True)
class VocabularyRows:
    """A table with a row for each id, of which ours may have more: padding, zeros.

    Attributes:
      size: the rows of the folder.
      transposed: ours is {d_model, vocab}, the kernel of a softmax.
    """

    size: int
    transposed: bool = False

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns {vocab, d_model}, or {d_model, vocab}."""
        values = []
        for value, shape in zip(theirs, shapes, strict=True):
            rows = shape[-1] if self.transposed else shape[0]
            if value.ndim != 2 or value.shape[0] != self.size:
                raise _Misshaped(
                    value.shape, (self.size, shape[0] if self.transposed else shape[1])
                )
            table = np.pad(value, [(0, max(rows - self.size, 0)), (0, 0)])
            values.append(reshaped(table.T if self.transposed else table, shape))
        return values

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the tables without the padding."""
        return [(value.T if self.transposed else value)[: self.size] for value in ours]


@dataclasses.dataclass(frozen=True)
class Permuted:
    """The same dimensions in another order: filters of convolutions.

    Attributes:
      axes: of the folder's tensor, in the order of our dimensions.
    """

    axes: tuple[int, ...]

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns the arrays in our order."""
        values = []
        for value, shape in zip(theirs, shapes, strict=True):
            if value.ndim != len(self.axes):
                raise _Misshaped(value.shape, shape)
            values.append(reshaped(value.transpose(self.axes), shape))
        return values

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the arrays in the order of the folder."""
        return [value.transpose(np.argsort(self.axes)) for value in ours]


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Several tensors of the folder, one variable of ours with one more dimension: experts.

    Attributes:
      each: the transform of every one.
    """

    each: Transform

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns one array {experts, ...}."""
        (shape,) = shapes
        return [np.stack(self.each.to_ours(theirs, [shape[1:]] * len(theirs)))]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the entries of the first dimension."""
        (value,) = ours
        return self.each.to_theirs(list(value))


@dataclasses.dataclass(frozen=True)
class Joined:
    """One tensor of the folder, several variables of ours side by side: queries, keys, values.

    Attributes:
      axis: of the tensor.
      each: the transform of every part.
    """

    axis: int
    each: Transform

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns one array for every shape; they are of equal size."""
        (value,) = theirs
        if value.ndim <= self.axis or value.shape[self.axis] % len(shapes):
            raise _Misshaped(value.shape, None)
        return self.each.to_ours(np.split(value, len(shapes), self.axis), shapes)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns one tensor."""
        return [np.concatenate(self.each.to_theirs(ours), self.axis)]


class _Misshaped(Exception):
    """An array has other sizes than expected: the sizes, and those that were expected."""


def reshaped(value: np.ndarray, shape: Shape) -> np.ndarray:
    """Returns an array in another shape of as many entries.

    Where both have as many dimensions these must be equal: sizes that were exchanged are an error.
    """
    if value.size != math.prod(shape) or (value.ndim == len(shape) and value.shape != shape):
        raise _Misshaped(value.shape, shape)
    return value.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Row:
    """Tensors of a folder, and variables of ours that have the same values.

    Attributes:
      names: of the tensors.
      paths: of the variables.
      transform: from one to the other.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    transform: Transform


def row(names: str | Sequence[str], paths: str | Sequence[str], transform: Transform) -> Row:
    """Returns a `Row`; a text stands for one name or path."""
    return Row(
        (names,) if isinstance(names, str) else tuple(names),
        (paths,) if isinstance(paths, str) else tuple(paths),
        transform,
    )


@dataclasses.dataclass(frozen=True)
class TensorTable:
    """All tensors of a model.

    Attributes:
      rows: see `Row`.
      kept: regular expressions of the names of tensors without a meaning for a model of ours:
        buffers, counters. They are stored with the run for the export.
    """

    rows: Sequence[Row]
    kept: Sequence[str] = ()

    def is_kept(self, name: str) -> bool:
        """Returns whether a tensor is stored for the export only."""
        return any(re.fullmatch(pattern, name) for pattern in self.kept)

    def check_names(self, tensors: Collection[str], where: object) -> None:
        """Raises ConversionError unless a folder has all tensors of the table, and no others.

        Args:
          tensors: their names in the folder, without copies.
          where: the folder, for messages.
        """
        needed = {name for row in self.rows for name in row.names}
        missing = [name for row in self.rows for name in row.names if name not in tensors]
        surplus = [name for name in tensors if name not in needed and not self.is_kept(name)]
        if missing:
            raise ConversionError(f"{where} lacks {_listed(missing)}, which config.json asks for")
        if surplus:
            raise ConversionError(
                f"{where} has {_listed(surplus)}, for which config.json has no place"
            )

    def to_ours(
        self, read: Callable[[str], np.ndarray], shapes: Mapping[str, Shape], where: object
    ) -> dict[str, np.ndarray]:
        """Returns the values of our variables by path, in the types of the folder.

        Args:
          read: returns a tensor of the folder.
          shapes: of our variables, by path.
          where: the folder, for messages.

        Raises:
          ConversionError: a tensor has other sizes than config.json says.
        """
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
        """Returns the tensors of a folder by name, in the types of the values.

        Args:
          values: values of our variables, by path.

        Raises:
          ConversionError: the paths are not the variables of this table.
        """
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
            raise ConversionError(f"config.json has no place for {_listed(surplus)}: {_CHANGED}")
        return tensors


def _listed(names: Sequence[str]) -> str:
    """Returns "x, y, z and 3 more"."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
