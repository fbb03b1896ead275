"""Element-wise functions of tensors, variables or (one of them) a number, broadcast by name.

`output_shape` is by default the operand's that contains the other's dimensions, else their union.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf.placement import engine
from mtfrun.mtf.shape import ShapeLike, convert_to_shape, union
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, binary, combine, named_op


def broadcasting(name: str, tf_fn: Callable[..., tf.Tensor], doc: str) -> Callable[..., Tensor]:
    """Returns the operation of this name and docstring that applies `tf_fn` to all entries."""

    def op(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
        return binary(tf_fn, x1, x2, output_shape)

    return named_op(op, name, doc)


def _with_full_gradient_on_ties(
    tf_fn: Callable[..., tf.Tensor], wins: Callable[..., tf.Tensor]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Gives both operands the full gradient on ties, which TensorFlow gives to one."""

    def fn(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        if not a.dtype.is_floating:
            return tf_fn(a, b)
        zero = tf.zeros([], a.dtype)
        path_a = tf.where(wins(a, b), a - tf.stop_gradient(a), zero)
        path_b = tf.where(wins(b, a), b - tf.stop_gradient(b), zero)
        return tf.stop_gradient(tf_fn(a, b)) + path_a + path_b

    return fn


add = broadcasting("add", tf.add, "Returns x1 + x2.")
sub = broadcasting("sub", tf.subtract, "Returns x1 - x2.")
multiply = broadcasting("multiply", tf.multiply, "Returns x1 * x2.")
divide = broadcasting("divide", tf.truediv, "Returns x1 / x2.")
floordiv = broadcasting("floordiv", tf.math.floordiv, "Returns the quotient, rounded down.")
mod = broadcasting("mod", tf.math.floormod, "Returns the remainder, with the sign of x2.")
less = broadcasting("less", tf.less, "Returns x1 < x2.")
less_equal = broadcasting("less_equal", tf.less_equal, "Returns x1 <= x2.")
greater = broadcasting("greater", tf.greater, "Returns x1 > x2.")
greater_equal = broadcasting("greater_equal", tf.greater_equal, "Returns x1 >= x2.")
equal = broadcasting("equal", tf.equal, "Returns where x1 equals x2.")
not_equal = broadcasting("not_equal", tf.not_equal, "Returns where x1 differs from x2.")
logical_and = broadcasting("logical_and", tf.logical_and, "Returns x1 and x2, bool.")
logical_or = broadcasting("logical_or", tf.logical_or, "Returns x1 or x2, bool.")
minimum = broadcasting(
    "minimum",
    _with_full_gradient_on_ties(tf.minimum, tf.less_equal),
    "Returns the smaller operand; on a tie both get the full gradient.",
)
maximum = broadcasting(
    "maximum",
    _with_full_gradient_on_ties(tf.maximum, tf.greater_equal),
    "Returns the larger operand; on a tie both get the full gradient.",
)


def pow(x: TensorLike, y: TensorLike) -> Tensor:  # Mesh TensorFlow's name
    """Returns x to the power of y, also for negative x (Mesh TensorFlow: exp(y log x))."""
    return binary(tf.pow, x, y)


def where(
    condition: TensorLike,
    if_true: TensorLike,
    if_false: TensorLike,
    output_shape: ShapeLike | None = None,
) -> Tensor:
    """Returns if_true where `condition` (bool) holds, else if_false, without arithmetic.

    The default shape is the union, beginning with the values'.
    """
    condition, operands = as_tensor(condition), (if_true, if_false)
    is_number = [isinstance(x, (bool, int, float)) for x in operands]
    tensors = [as_tensor(x) for x, number in zip(operands, is_number, strict=True) if not number]
    dtype = tensors[0].dtype if tensors else tf.float32
    shape = union(*(x.shape for x in tensors), condition.shape)
    if output_shape is not None:
        shape = convert_to_shape(output_shape)

    def choose(mask: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
        remaining = iter(values)
        # Numbers stay scalars: TensorFlow broadcasts them without a copy.
        chosen = [
            tf.constant(x, dtype) if number else next(remaining)
            for x, number in zip(operands, is_number, strict=True)
        ]
        if condition.mesh.is_distributed:
            return engine.choose(mask, *chosen, rank=shape.ndims)
        return tf.where(mask, *chosen)

    inputs = [condition, *tensors]
    values, shapes = [x.value for x in inputs], [x.shape for x in inputs]
    return Tensor(condition.mesh, combine(choose, condition.mesh, values, shapes, shape), shape)
