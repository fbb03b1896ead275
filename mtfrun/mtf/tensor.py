"""A tensor with named dimensions; operations of two combine them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.placement.mesh import Mesh
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import Dimension, Shape, ShapeLike, broadcast_shape, convert_to_shape

_Op = TypeVar("_Op", bound=Callable[..., Any])
_Method: TypeAlias = "Callable[[Any, Any], Tensor]"


def _operators(tf_fn: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tuple[_Method, _Method]:
    def operate(self: Arithmetic, other: TensorLike) -> Tensor:
        return binary(tf_fn, self, other)

    def reflect(self: Arithmetic, other: TensorLike) -> Tensor:
        return binary(tf_fn, other, self)

    return operate, reflect


class Arithmetic:
    """The operators of tensors and variables; operands are broadcast by name."""

    __add__, __radd__ = _operators(tf.add)
    __sub__, __rsub__ = _operators(tf.subtract)
    __mul__, __rmul__ = _operators(tf.multiply)
    __truediv__, __rtruediv__ = _operators(tf.truediv)
    __floordiv__, __rfloordiv__ = _operators(tf.math.floordiv)
    __mod__, __rmod__ = _operators(tf.math.floormod)
    __lt__ = _operators(tf.less)[0]
    __le__ = _operators(tf.less_equal)[0]
    __gt__ = _operators(tf.greater)[0]
    __ge__ = _operators(tf.greater_equal)[0]

    def __neg__(self) -> Tensor:
        x = as_tensor(self)
        return Tensor(x.mesh, tf.negative(x.value), x.shape)


class Tensor(Arithmetic):
    """A `tf.Tensor` with named dimensions, on a mesh; a ShapeError if the sizes differ.

    `value` has its dimensions in the order of `shape`; on several devices it is a DTensor.
    """

    __slots__ = ("mesh", "shape", "value")

    def __init__(self, mesh: Mesh, value: tf.Tensor, shape: ShapeLike):
        self.mesh = mesh
        self.value = value
        self.shape: Shape = convert_to_shape(shape)
        if value.shape != self.shape.to_integer_list:
            raise ShapeError(f"a value of sizes {value.shape} cannot have the shape {self.shape}")

    @property
    def dtype(self) -> tf.DType:
        return self.value.dtype

    def __bool__(self) -> bool:
        raise TypeError("the truth of a named tensor is not defined: use mtf.where or mtf.to_numpy")

    def __repr__(self) -> str:
        return f"Tensor({self.shape.to_string!r}, {self.dtype.name})"


TensorLike: TypeAlias = "Tensor | Any"


def as_tensor(x: TensorLike) -> Tensor:
    """Returns x if it is a tensor, or the value of a variable."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Arithmetic):
        return cast(Tensor, x.read())  # type: ignore[attr-defined]
    kind = type(x).__name__
    raise TypeError(f"expected a named tensor, got {kind}: convert it by mtf.import_tf_tensor")


def binary(
    tf_fn: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    x1: TensorLike,
    x2: TensorLike,
    output_shape: ShapeLike | None = None,
) -> Tensor:
    """Returns tf_fn(x1, x2) of operands broadcast by name; a number takes the other's type."""
    number1 = isinstance(x1, (bool, int, float))
    number2 = isinstance(x2, (bool, int, float))
    if number1 or number2:
        x = as_tensor(x2 if number1 else x1)
        operands = ((x1, number1), (x2, number2))
        value = tf_fn(*(tf.constant(y, x.dtype) if number else x.value for y, number in operands))
        shape = x.shape if output_shape is None else convert_to_shape(output_shape)
        if shape != x.shape:
            value = combine(tf.identity, x.mesh, [value], [x.shape], shape)
        return Tensor(x.mesh, value, shape)
    x1, x2 = as_tensor(x1), as_tensor(x2)
    if x1.mesh is not x2.mesh:
        raise ShapeError(f"operands are on two meshes, {x1.mesh} and {x2.mesh}: use one mesh")
    shape = broadcast_shape(x1.shape, x2.shape)
    if output_shape is not None:
        shape = convert_to_shape(output_shape)
    value = combine(tf_fn, x1.mesh, [x1.value, x2.value], [x1.shape, x2.shape], shape)
    return Tensor(x1.mesh, value, shape)


def named_op(op: _Op, name: str, doc: str) -> _Op:
    """Returns `op`, made by the function for its kind of operations, with a name and docstring."""
    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc
    return accept_name(op)


def align(value: tf.Tensor, shape: Shape, output_shape: Shape) -> tf.Tensor:
    """Returns `value` transposed, with axes of size 1, so that it broadcasts to `output_shape`."""
    if shape == output_shape:
        return value
    for dim in shape - output_shape:
        missing = f"dimension {dim} of {shape} is not in the output {output_shape}"
        raise ShapeError(f"{missing}: reduce it first or add it to the output")
    order = [shape.index(dim) for dim in output_shape if dim in shape]
    if order != sorted(order):
        value = tf.transpose(value, order)
    # TensorFlow's broadcasting adds the leading dimensions that are missing.
    first = next((i for i, dim in enumerate(output_shape) if dim in shape), len(output_shape))
    for axis, dim in enumerate(output_shape.dims[first:]):
        if dim not in shape:
            # Not value[:, None]: under DTensor a strided slice with a new axis ends the process.
            value = tf.expand_dims(value, axis)
    return value


def combine(
    tf_fn: Callable[..., tf.Tensor],
    mesh: Mesh,
    values: Sequence[tf.Tensor],
    shapes: Sequence[Shape],
    output_shape: Shape,
) -> tf.Tensor:
    """Returns tf_fn of the aligned values, laid out as `output_shape`."""
    pairs = zip(values, shapes, strict=True)
    result = tf_fn(*(align(value, shape, output_shape) for value, shape in pairs))
    if all(shape == output_shape for shape in shapes):
        return result  # laid out as its operands are
    if result.shape != output_shape.to_integer_list:  # a dimension that no operand has
        result = tf.broadcast_to(result, output_shape.to_integer_list)
    return mesh.constrain(result, output_shape)


def lay_out(x: Tensor, value: tf.Tensor, shape: ShapeLike) -> Tensor:
    """Returns `value` as a tensor on x's mesh, laid out by the rules for `shape`."""
    shape = convert_to_shape(shape)
    return Tensor(x.mesh, x.mesh.constrain(value, shape), shape)


def gather_along(x: Tensor, *dims: Dimension) -> tf.Tensor:
    """Returns x's value, gathered along these dimensions where they are split."""
    names = [dim.name for dim in dims if x.mesh.num_splits(dim) > 1]
    return x.mesh.constrain(x.value, _unsplit(x.shape, names)) if names else x.value


def lay_out_gathered(x: Tensor, value: tf.Tensor, shape: ShapeLike, dim: Dimension) -> Tensor:
    """Returns `value`, computed with `dim` unsplit on every device, laid out by the rules.

    In two steps: DTensor otherwise lets an operation, or its gradient, compute with `dim` split
    although it cannot, and fails or gives wrong numbers.
    """
    shape = convert_to_shape(shape)
    if x.mesh.num_splits(dim) > 1:
        value = x.mesh.constrain(value, _unsplit(shape, [dim.name]))
    return lay_out(x, value, shape)


def _unsplit(shape: Shape, names: Sequence[str]) -> Shape:
    return Shape(Dimension(f"{d.name}_whole", d.size) if d.name in names else d for d in shape)


def reorder(x: TensorLike, shape: Shape) -> Tensor:
    """Returns x with its dimensions in the order of `shape`, which has the same ones."""
    x = as_tensor(x)
    if x.shape == shape:
        return x
    if len(shape) != len(x.shape) or any(dim not in x.shape for dim in shape):
        raise ShapeError(f"{x.shape} cannot be transposed to {shape}: the dimensions differ")
    return lay_out(x, tf.transpose(x.value, [x.shape.index(dim) for dim in shape]), shape)
