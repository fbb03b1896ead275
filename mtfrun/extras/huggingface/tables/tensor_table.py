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


class Same(_Each):
    """The same dimensions in the same order: scales, embeddings."""


class Flat(_Each):
    """One dimension in the folder, several here: biases {heads, d_kv}."""

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return value.reshape(-1)


class HeadRows(_Each):
    """[heads, d_kv] in the folder, possibly grouped heads here: scales of norms."""

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return value.reshape(-1, value.shape[-1])


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
            raise _Misshaped(value.shape, (self.size, *width))
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
            raise _Misshaped(value.shape, (1, *shape))
        return self.row.ours(value[0], shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return self.row.theirs(value)[np.newaxis]


@dataclasses.dataclass(frozen=True)
class Permuted(_Each):
    """The same dimensions in another order, `axes`: filters of convolutions."""

    axes: tuple[int, ...]

    def ours(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        if value.ndim != len(self.axes):
            raise _Misshaped(value.shape, shape)
        return reshape(value.transpose(self.axes), shape)

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return value.transpose(np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Several tensors in the folder, one variable here, whose last `dims` are those of a tensor."""

    each: Transform
    dims: int = 2

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        (shape,) = shapes
        values = np.stack(self.each.to_ours(theirs, [shape[-self.dims :]] * len(theirs)))
        if values.size != math.prod(shape):
            raise _Misshaped(values.shape, shape)
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
            raise _Misshaped(value.shape, None)
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
    order: Callable[[int], Sequence[int]]

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        values = self.each.to_ours(theirs, shapes)
        return [value[..., list(self.order(value.shape[-1]))] for value in values]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        orders = [np.argsort(self.order(value.shape[-1])) for value in ours]
        values = zip(ours, orders, strict=True)
        return self.each.to_theirs([value[..., order] for value, order in values])


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
        raise _Misshaped(value.shape, shape)
    return value.reshape(shape)


class Row:
    """Tensors of the folder and variables of ours with the same values."""

    def __init__(
        self, names: str | Sequence[str], paths: str | Sequence[str], transform: Transform
    ) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self.paths = (paths,) if isinstance(paths, str) else tuple(paths)
        self.transform = transform

    def in_order(self, order: Callable[[int], Sequence[int]]) -> Row:
        """Returns the row with a `Reordered` transform."""
        return Row(self.names, self.paths, Reordered(self.transform, order))


def norm_rows(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/scale", Same())
    yield Row(f"{theirs}.bias", f"{ours}/bias", Same())


@dataclasses.dataclass(frozen=True)
class TensorTable:
    """`kept`: patterns of unused tensors, which are stored for the export."""

    rows: Sequence[Row]
    kept: Sequence[str] = ()

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


def linear_rows(
    theirs: str,
    kernels: Sequence[str],
    biases: Sequence[str],
    kernel: Matrix,
    bias: Transform,
    heads: int = 1,
) -> Iterator[Row]:
    """Yields the tensors of a module with one or several of our kernels; see `Joined`."""
    kernel_form: Transform = kernel
    if len(kernels) > 1:
        kernel_form, bias = (
            Joined(kernel, heads, 0 if kernel.transposed else 1),
            Joined(bias, heads),
        )
    yield Row(f"{theirs}.weight", kernels, kernel_form)
    if biases:
        yield Row(f"{theirs}.bias", biases, bias)


def dense_rows(
    theirs: str, *ours: str, has_bias: bool = True, kernel: Matrix = Matrix()
) -> Iterator[Row]:
    biases = [f"{path}/bias" for path in ours] if has_bias else []
    return linear_rows(theirs, [f"{path}/kernel" for path in ours], biases, kernel, Same())


def feed_forward_rows(
    theirs: Sequence[str],
    ours: str,
    *,
    is_gated: bool = False,
    has_bias: bool = True,
    kernel: Matrix = Matrix(),
) -> Iterator[Row]:
    """`theirs`: the modules of "wi", or of "wi_0" and "wi_1", perhaps in one, and of "wo"."""
    *inner, output = theirs
    names = ("wi_0", "wi_1") if is_gated else ("wi",)
    for module, parts in _distribute(names, inner):
        paths = (f"{ours}/{name}" for name in parts)
        yield from dense_rows(module, *paths, has_bias=has_bias, kernel=kernel)
    yield from dense_rows(output, f"{ours}/wo", has_bias=has_bias, kernel=kernel)


def attention_rows(
    theirs: Sequence[str],
    ours: str,
    *,
    use_bias: bool = True,
    use_output_bias: bool = True,
    inputs: int = 2,
    kernel: Matrix = Matrix(),
    heads: int = 1,
) -> Iterator[Row]:
    """`theirs`: the modules of queries, keys and values, perhaps in one, and of the output.

    inputs: our number of inputs of the output; heads: see `Joined`.
    """
    *projections, output = theirs
    for module, parts in _distribute(("query", "key", "value"), projections):
        kernels = [f"{ours}/{name}" for name in parts]
        biases = [f"{path}_bias" for path in kernels] if use_bias else []
        yield from linear_rows(module, kernels, biases, kernel, Flat(), heads)
    biases = [f"{ours}/output_bias"] if use_output_bias else []
    kernel = dataclasses.replace(kernel, inputs=inputs)
    yield from linear_rows(output, [f"{ours}/output"], biases, kernel, Same())


def _distribute(
    names: Sequence[str], modules: Sequence[str]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields each module with its names: all for a single module."""
    parts = [names] if len(modules) == 1 else [[name] for name in names]
    return zip(modules, parts, strict=True)
