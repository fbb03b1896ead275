"""Random calls of operations, drawn by hypothesis, with their results by numpy.

See test_random_layouts.py.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mtfrun import mtf
from tests.mtf.op_cases import OpCase

NAMES = ["a", "b", "c", "batch", "d_model", "length", "heads", "_x", "d1", "vocab"]
SIZES = [8, 4, 2, 16, 6, 3, 1, 12]
Draw = st.DrawFn


@dataclasses.dataclass(frozen=True)
class Named:
    """A numpy array with named dimensions.

    Attributes:
      array: the entries.
      names: the names of its axes.
    """

    array: np.ndarray
    names: tuple[str, ...]

    @property
    def shape(self) -> mtf.Shape:
        return mtf.Shape(zip(self.names, self.array.shape, strict=True))

    def to(self, names: Sequence[str]) -> np.ndarray:
        """Returns the array with these dimensions in this order, of size 1 where it lacks them."""
        present = [name for name in names if name in self.names]
        array = self.array.transpose([self.names.index(name) for name in present])
        sizes = iter(array.shape)
        return array.reshape([next(sizes) if name in present else 1 for name in names])

    def axis(self, name: str) -> int:
        return self.names.index(name)

    def along(self, fn: Callable[..., np.ndarray], name: str) -> Named:
        """Returns fn(array, axis=...) of the same dimensions."""
        return Named(fn(self.array, axis=self.axis(name)), self.names)

    def without(self, fn: Callable[..., np.ndarray], name: str) -> Named:
        """Returns fn(array, axis=...), which lacks the dimension."""
        remaining = tuple(n for n in self.names if n != name)
        return Named(np.asarray(fn(self.array, axis=self.axis(name))), remaining)


@dataclasses.dataclass(frozen=True)
class RandomCall:
    """A call with its results by numpy.

    Attributes:
      case: the call; its layouts are not used.
      reference: takes the inputs and returns the outputs, dimensions in any order.
      moves: no tensor has an old and a new dimension, so that both may be on one axis.
      unsplit: names of dimensions that must not be split.
    """

    case: OpCase
    reference: Callable[..., Named | list[Named]]
    moves: bool = False
    unsplit: tuple[str, ...] = ()

    def inputs(self) -> list[Named]:
        return [Named(array, tuple(s.dimension_names)) for array, s in self.case.arrays()]

    def expected(self) -> list[Named]:
        result = self.reference(*self.inputs())
        return [result] if isinstance(result, Named) else result

    def shapes(self) -> list[mtf.Shape]:
        return [x.shape for x in (*self.inputs(), *self.expected())]


def call(
    fn: Callable[..., Any],
    inputs: Sequence[str | mtf.Shape],
    reference: Callable[..., Named | list[Named]],
    *,
    moves: bool = False,
    unsplit: tuple[str, ...] = (),
) -> RandomCall:
    """Returns a call; inputs as in OpCase, or shapes."""
    texts = tuple(x.to_string if isinstance(x, mtf.Shape) else x for x in inputs)
    return RandomCall(OpCase("random", fn, texts, ()), reference, moves, unsplit)


def dims(draw: Draw, least: int = 1, most: int = 4) -> mtf.Shape:
    """Draws a shape."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=least, max_size=most, unique=True))
    return mtf.Shape((name, draw(st.sampled_from(SIZES))) for name in names)


def some_of(draw: Draw, shape: mtf.Shape, least: int = 0) -> mtf.Shape:
    """Draws some dimensions of a shape, in any order."""
    order = draw(st.permutations(shape.dims))
    return mtf.Shape(order[: draw(st.integers(least, len(order)))])


def one_of(draw: Draw, shape: mtf.Shape) -> mtf.Dimension:
    """Draws a dimension of a shape."""
    return draw(st.sampled_from(shape.dims))


ELEMENTWISE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sin": np.sin,
    "exp": np.exp,
    "tanh": np.tanh,
    "square": np.square,
    "abs": np.abs,
    "negative": np.negative,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.maximum(x, 0.2 * x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "sign": np.sign,
}


def elementwise(draw: Draw) -> RandomCall:
    names = draw(st.lists(st.sampled_from(sorted(ELEMENTWISE)), min_size=1, max_size=4))

    def fn(x: mtf.Tensor) -> mtf.Tensor:
        for name in names:
            x = getattr(mtf, name)(mtf.tanh(x))
        return x

    def reference(x: Named) -> Named:
        array = x.array
        for name in names:
            array = ELEMENTWISE[name](np.tanh(array))
        return Named(array, x.names)

    return call(fn, [dims(draw)], reference)


BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "less": np.less,
    "greater_equal": np.greater_equal,
}


def binary(draw: Draw) -> RandomCall:
    """Broadcasting by name, with or without an output shape."""
    name = draw(st.sampled_from(sorted(BINARY)))
    all_dims = dims(draw)
    left, right = some_of(draw, all_dims), some_of(draw, all_dims)
    union = mtf.Shape([*left, *(right - left)])
    output = mtf.Shape(draw(st.permutations(union.dims))) if draw(st.booleans()) else None

    def reference(x: Named, y: Named) -> Named:
        names = union.dimension_names
        return Named(BINARY[name](x.to(names), y.to(names)), tuple(names))

    return call(
        lambda x, y: getattr(mtf, name)(x, y, output),
        [left, f"positive {right.to_string}"],
        reference,
    )


def where(draw: Draw) -> RandomCall:
    all_dims = dims(draw)
    shapes = [some_of(draw, all_dims) for _ in range(3)]
    names = [n for n in all_dims.dimension_names if any(n in s.dimension_names for s in shapes)]
    return call(
        mtf.where,
        [f"bool {shapes[0].to_string}", *shapes[1:]],
        lambda *xs: Named(np.where(*(x.to(names) for x in xs)), tuple(names)),
    )


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_any": np.any,
    "reduce_all": np.all,
}


def reduction(draw: Draw) -> RandomCall:
    """Over one dimension, or all that an output shape lacks."""
    name = draw(st.sampled_from(sorted(REDUCTIONS)))
    fn, numpy_fn, shape = getattr(mtf, name), REDUCTIONS[name], dims(draw)
    text = f"bool {shape.to_string}" if numpy_fn in (np.any, np.all) else shape.to_string
    if draw(st.booleans()):
        dim = one_of(draw, shape)
        return call(
            lambda x: fn(x, reduced_dim=dim), [text], lambda x: x.without(numpy_fn, dim.name)
        )
    output = some_of(draw, shape)

    def reference(x: Named) -> Named:
        axes = tuple(x.axis(d.name) for d in shape if d not in output)
        names = tuple(n for n in x.names if n in output.dimension_names)
        return Named(np.asarray(numpy_fn(x.array, axis=axes)), names)

    return call(lambda x: fn(x, output_shape=output), [text], reference)


def einsum(draw: Draw) -> RandomCall:
    """Of one to four operands."""
    all_dims = dims(draw)
    shapes = [some_of(draw, all_dims) for _ in range(draw(st.integers(1, 4)))]
    present = mtf.Shape(d for d in all_dims if any(d in s for s in shapes))
    output = some_of(draw, present)
    letters = dict(zip(all_dims.dimension_names, string.ascii_letters, strict=False))

    def reference(*xs: Named) -> Named:
        terms = ",".join("".join(letters[n] for n in x.names) for x in xs)
        names = tuple(output.dimension_names)
        equation = f"{terms}->{''.join(letters[n] for n in names)}"
        return Named(np.einsum(equation, *(x.array for x in xs)), names)

    return call(lambda *xs: mtf.einsum(list(xs), output_shape=output), shapes, reference)


def softmax_family(draw: Draw) -> RandomCall:
    shape = dims(draw)
    dim = one_of(draw, shape)
    extra = draw(st.sampled_from([None, 0.5]))

    def reference(x: Named) -> list[Named]:
        array, axis = x.array.astype(np.float64), x.axis(dim.name)
        if extra is not None:
            array = np.concatenate([array, np.full_like(array.take([0], axis), extra)], axis)
        largest = array.max(axis, keepdims=True)
        log_z = largest + np.log(np.exp(array - largest).sum(axis, keepdims=True))
        others = tuple(n for n in x.names if n != dim.name)
        return [
            Named(log_z.squeeze(axis), others),
            Named(np.exp(x.array - log_z), x.names),
            Named(x.array - log_z, x.names),
        ]

    functions = [mtf.reduce_logsumexp, mtf.softmax, mtf.log_softmax]
    return call(lambda x: [fn(x, dim, extra) for fn in functions], [shape], reference)


CALLS = {fn.__name__: fn for fn in (elementwise, binary, where, reduction, einsum, softmax_family)}
