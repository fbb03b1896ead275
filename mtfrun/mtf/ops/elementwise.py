"""Element-wise functions of one tensor."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf.parameters.low_rank import LowRankSum
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, named_op


def elementwise(
    name: str, tf_fn: Callable[[tf.Tensor], tf.Tensor], doc: str
) -> Callable[[TensorLike], Tensor]:
    """Returns the operation of this name and docstring that applies `tf_fn` to every entry."""

    def op(x: TensorLike) -> Tensor:
        return unary(tf_fn, x)

    return named_op(op, name, doc)


def unary(tf_fn: Callable[[tf.Tensor], tf.Tensor], x: TensorLike) -> Tensor:
    """Returns an element-wise function of one tensor; the layout does not change."""
    x = as_tensor(x)
    return Tensor(x.mesh, tf_fn(x.value), x.shape)


identity = elementwise("identity", tf.identity, "Returns x.")
sin = elementwise("sin", tf.sin, "Returns the sine.")
cos = elementwise("cos", tf.cos, "Returns the cosine.")
square = elementwise("square", tf.square, "Returns x * x.")
sqrt = elementwise("sqrt", tf.sqrt, "Returns the square root.")
rsqrt = elementwise("rsqrt", tf.math.rsqrt, "Returns 1 / sqrt(x).")
log = elementwise("log", tf.math.log, "Returns the natural logarithm.")
exp = elementwise("exp", tf.exp, "Returns e to the power of x.")
sigmoid = elementwise("sigmoid", tf.sigmoid, "Returns 1 / (1 + exp(-x)).")
tanh = elementwise("tanh", tf.tanh, "Returns the hyperbolic tangent.")
negative = elementwise("negative", tf.negative, "Returns -x.")
reciprocal = elementwise("reciprocal", tf.math.reciprocal, "Returns 1 / x.")
sign = elementwise("sign", tf.sign, "Returns -1, 0 or 1.")
abs = elementwise("abs", tf.abs, "Returns the absolute value.")
logical_not = elementwise("logical_not", tf.logical_not, "Returns the negation of a bool tensor.")
relu = elementwise("relu", tf.nn.relu, "Returns max(x, 0); its gradient at 0 is 0.")
elu = elementwise("elu", tf.nn.elu, "Returns x or exp(x) - 1; Clevert et al., arXiv:1511.07289.")
selu = elementwise("selu", tf.nn.selu, "Returns a scaled elu; Klambauer et al., arXiv:1706.02515.")
softplus = elementwise("softplus", tf.nn.softplus, "Returns log(1 + exp(x)).")
is_finite = elementwise("is_finite", tf.math.is_finite, "Returns where x is finite.")
stop_gradient = elementwise("stop_gradient", tf.stop_gradient, "Returns x as a constant.")


@accept_name
def leaky_relu(x: TensorLike, alpha: float = 0.2) -> Tensor:
    """Returns x where positive, else alpha * x."""
    return unary(lambda value: tf.where(value > 0, value, alpha * value), x)


def gelu(x: TensorLike) -> Tensor:
    """Returns the tanh form of x * Phi(x); Hendrycks and Gimpel 2016, arXiv:1606.08415, eq. 2."""
    return unary(lambda value: tf.nn.gelu(value, approximate=True), x)


def exact_gelu(x: TensorLike) -> Tensor:
    """Returns x * Phi(x) with the error function; Hendrycks and Gimpel 2016, arXiv:1606.08415."""
    return unary(lambda value: tf.nn.gelu(value, approximate=False), x)


def sigmoid_gelu(x: TensorLike) -> Tensor:
    """Returns x * sigmoid(1.702 * x); Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2."""
    return unary(lambda value: value * tf.sigmoid(1.702 * value), x)


def swish(x: TensorLike) -> Tensor:
    """Returns x * sigmoid(x); Ramachandran et al. 2017, arXiv:1710.05941."""
    return unary(lambda value: value * tf.sigmoid(value), x)


@accept_name
def cast(x: TensorLike, dtype: tf.DType) -> Tensor:
    """Returns x converted to a type; x itself where it has that type already."""
    x = as_tensor(x)
    dtype = tf.as_dtype(dtype)
    if x.dtype == dtype:
        return x
    if isinstance(x, LowRankSum):
        return x.map(lambda part: cast(part, dtype))
    return unary(lambda value: tf.cast(value, dtype), x)


@accept_name
def to_float(x: TensorLike) -> Tensor:
    """Returns x as float32."""
    return cast(x, tf.float32)


@accept_name
def to_bfloat16(x: TensorLike) -> Tensor:
    """Returns x as bfloat16."""
    return cast(x, tf.bfloat16)


@accept_name
def to_int32(x: TensorLike) -> Tensor:
    """Returns x as int32, rounded towards zero."""
    return cast(x, tf.int32)
