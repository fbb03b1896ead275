"""Element-wise functions of one tensor."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


@accept_name
def identity(x: TensorLike) -> Tensor:
    """Returns x."""
    return unary(tf.identity, x)


@accept_name
def sin(x: TensorLike) -> Tensor:
    """Returns the sine."""
    return unary(tf.sin, x)


@accept_name
def cos(x: TensorLike) -> Tensor:
    """Returns the cosine."""
    return unary(tf.cos, x)


@accept_name
def square(x: TensorLike) -> Tensor:
    """Returns x * x."""
    return unary(tf.square, x)


@accept_name
def sqrt(x: TensorLike) -> Tensor:
    """Returns the square root."""
    return unary(tf.sqrt, x)


@accept_name
def rsqrt(x: TensorLike) -> Tensor:
    """Returns 1 / sqrt(x)."""
    return unary(tf.math.rsqrt, x)


@accept_name
def log(x: TensorLike) -> Tensor:
    """Returns the natural logarithm."""
    return unary(tf.math.log, x)


@accept_name
def exp(x: TensorLike) -> Tensor:
    """Returns e to the power of x."""
    return unary(tf.exp, x)


@accept_name
def sigmoid(x: TensorLike) -> Tensor:
    """Returns 1 / (1 + exp(-x))."""
    return unary(tf.sigmoid, x)


@accept_name
def tanh(x: TensorLike) -> Tensor:
    """Returns the hyperbolic tangent."""
    return unary(tf.tanh, x)


@accept_name
def negative(x: TensorLike) -> Tensor:
    """Returns -x."""
    return unary(tf.negative, x)


@accept_name
def reciprocal(x: TensorLike) -> Tensor:
    """Returns 1 / x."""
    return unary(tf.math.reciprocal, x)


@accept_name
def sign(x: TensorLike) -> Tensor:
    """Returns -1, 0 or 1."""
    return unary(tf.sign, x)


def abs(x: TensorLike) -> Tensor:  # Mesh TensorFlow's name
    """Returns the absolute value."""
    return unary(tf.abs, x)


@accept_name
def logical_not(x: TensorLike) -> Tensor:
    """Returns the negation of a bool tensor."""
    return unary(tf.logical_not, x)


@accept_name
def relu(x: TensorLike) -> Tensor:
    """Returns max(x, 0); its gradient at 0 is 0."""
    return unary(tf.nn.relu, x)


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


def elu(x: TensorLike) -> Tensor:
    """Returns x where positive, else exp(x) - 1; Clevert et al. 2015, arXiv:1511.07289."""
    return unary(tf.nn.elu, x)


def selu(x: TensorLike) -> Tensor:
    """Returns the self-normalising elu; Klambauer et al. 2017, arXiv:1706.02515."""
    return unary(tf.nn.selu, x)


def softplus(x: TensorLike) -> Tensor:
    """Returns log(1 + exp(x))."""
    return unary(tf.nn.softplus, x)


@accept_name
def cast(x: TensorLike, dtype: tf.DType) -> Tensor:
    """Returns x converted to a type; x itself where it has that type already."""
    x = as_tensor(x)
    dtype = tf.as_dtype(dtype)
    return x if x.dtype == dtype else unary(lambda value: tf.cast(value, dtype), x)


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


def is_finite(x: TensorLike) -> Tensor:
    """Returns where x is neither infinite nor not-a-number."""
    return unary(tf.math.is_finite, x)


def stop_gradient(x: TensorLike) -> Tensor:
    """Returns x, through which no gradient flows."""
    return unary(tf.stop_gradient, x)


def unary(tf_fn: Callable[[tf.Tensor], tf.Tensor], x: TensorLike) -> Tensor:
    """Returns an element-wise function of one tensor; the layout does not change."""
    x = as_tensor(x)
    return Tensor(x.mesh, tf_fn(x.value), x.shape)
