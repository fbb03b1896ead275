"""Element-wise functions of tensors, variables or (one of them) a number, broadcast by name.

`output_shape` is by default the operand's that contains the other's dimensions, else their union.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf import engine
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import ShapeLike, convert_to_shape, union
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, binary, combine


@accept_name
def add(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 + x2."""
    return binary(tf.add, x1, x2, output_shape)


@accept_name
def sub(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 - x2."""
    return binary(tf.subtract, x1, x2, output_shape)


@accept_name
def multiply(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 * x2."""
    return binary(tf.multiply, x1, x2, output_shape)


@accept_name
def divide(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 / x2."""
    return binary(tf.truediv, x1, x2, output_shape)


def floordiv(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns the quotient rounded towards minus infinity."""
    return binary(tf.math.floordiv, x1, x2, output_shape)


def mod(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns the remainder of `floordiv`; it has the sign of x2."""
    return binary(tf.math.floormod, x1, x2, output_shape)


def pow(x: TensorLike, y: TensorLike) -> Tensor:  # Mesh TensorFlow's name
    """Returns x to the power of y, also for negative x (Mesh TensorFlow: exp(y log x))."""
    return binary(tf.pow, x, y)


@accept_name
def minimum(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns the smaller operand; on a tie both get the full gradient."""
    return binary(_with_full_gradient_on_ties(tf.minimum, tf.less_equal), x1, x2, output_shape)


@accept_name
def maximum(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns the larger operand; on a tie both get the full gradient."""
    return binary(_with_full_gradient_on_ties(tf.maximum, tf.greater_equal), x1, x2, output_shape)


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


def less(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 < x2."""
    return binary(tf.less, x1, x2, output_shape)


def less_equal(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 <= x2."""
    return binary(tf.less_equal, x1, x2, output_shape)


def greater(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 > x2."""
    return binary(tf.greater, x1, x2, output_shape)


def greater_equal(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 >= x2."""
    return binary(tf.greater_equal, x1, x2, output_shape)


def equal(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns where x1 equals x2."""
    return binary(tf.equal, x1, x2, output_shape)


def not_equal(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns where x1 differs from x2."""
    return binary(tf.not_equal, x1, x2, output_shape)


def logical_and(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 and x2, bool."""
    return binary(tf.logical_and, x1, x2, output_shape)


def logical_or(x1: TensorLike, x2: TensorLike, output_shape: ShapeLike | None = None) -> Tensor:
    """Returns x1 or x2, bool."""
    return binary(tf.logical_or, x1, x2, output_shape)


def where(
    condition: TensorLike,
    if_true: TensorLike,
    if_false: TensorLike,
    output_shape: ShapeLike | None = None,
) -> Tensor:
    """Returns if_true where `condition` (bool) holds, else if_false, without arithmetic.

    The default shape is the union, beginning with the values'.
    """
    condition = as_tensor(condition)
    numbers = [isinstance(x, (bool, int, float)) for x in (if_true, if_false)]
    tensors = [
        as_tensor(x) for x, number in zip((if_true, if_false), numbers, strict=True) if not number
    ]
    dtype = tensors[0].dtype if tensors else tf.float32
    shapes = [t.shape for t in tensors]
    shape = (
        convert_to_shape(output_shape)
        if output_shape is not None
        else union(*shapes, condition.shape)
    )
    # Numbers stay scalars: TensorFlow broadcasts them without a copy.
    fixed = {i: tf.constant(x, dtype) for i, x in enumerate((if_true, if_false)) if numbers[i]}

    def choose(mask: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
        tensor_values = iter(values)
        operands = [fixed[i] if i in fixed else next(tensor_values) for i in (0, 1)]
        if condition.mesh.is_distributed:
            return engine.choose(mask, *operands, rank=shape.ndims)
        return tf.where(mask, *operands)

    value = combine(
        choose,
        condition.mesh,
        [condition.value, *(t.value for t in tensors)],
        [condition.shape, *shapes],
        shape,
    )
    return Tensor(condition.mesh, value, shape)
