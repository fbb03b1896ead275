"""The largest entries along a dimension, and sampling from logits."""

from __future__ import annotations

import tensorflow as tf

from mtfrun.errors import InputError, ShapeError
from mtfrun.mtf.dimension import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.constants import one_hot
from mtfrun.mtf.ops.contraction import einsum
from mtfrun.mtf.ops.elementwise import log, negative
from mtfrun.mtf.ops.indexing.gather import gather
from mtfrun.mtf.ops.indexing.top_k_in_blocks import fits_blocks, top_k_in_blocks
from mtfrun.mtf.ops.lift import gathered_along, laid_out, laid_out_from_gathered, transposed
from mtfrun.mtf.ops.reductions import reduce_max
from mtfrun.mtf.porting import named
from mtfrun.mtf.random import Key, random_uniform
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor


@named
def argmax(x: TensorLike, reduced_dim: DimensionLike) -> Tensor:
    """Returns the int32 index of the largest entry, the lowest one on ties."""
    x = as_tensor(x)
    dim = convert_to_dimension(reduced_dim)
    axis = x.shape.index(dim)
    if is_traced_for_xla(x.mesh) and fits_blocks(dim.size, 1):
        value = tf.squeeze(top_k_in_blocks(x.value, axis, 1)[1], -1)
    else:
        value = tf.argmax(x.value, axis, output_type=tf.int32)
    return laid_out(x, value, x.shape - dim)


@named
def top_1(x: TensorLike, reduced_dim: DimensionLike) -> tuple[Tensor, Tensor]:
    """Returns (the largest entry, its int32 index) along a dimension; gradients flow through."""
    return reduce_max(x, reduced_dim=reduced_dim), argmax(x, reduced_dim)


@named
def top_k(x: TensorLike, reduced_dim: DimensionLike, k_dim: DimensionLike) -> tuple[Tensor, Tensor]:
    """Returns (values, int32 indices) of the largest entries along a dimension, best first.

    Ties go to the lowest index. `k_dim` becomes the last dimension. A split `reduced_dim` is
    gathered. On several devices the gradient is a contraction with one-hot indices.

    Raises:
      ShapeError: `k_dim` is larger than `reduced_dim`.
    """
    x = as_tensor(x)
    reduced_dim, k_dim = convert_to_dimension(reduced_dim), convert_to_dimension(k_dim)
    x.shape.index(reduced_dim)
    if k_dim.size > reduced_dim.size:
        raise ShapeError(
            f"top_k cannot take the {k_dim.size} entries of {k_dim.name!r} from the "
            f"{reduced_dim.size} of {reduced_dim.name!r}: ask for fewer"
        )
    others = x.shape - reduced_dim
    shape = others + k_dim
    if is_traced_for_xla(x.mesh) and fits_blocks(reduced_dim.size, k_dim.size):
        values, indices = top_k_in_blocks(x.value, x.shape.index(reduced_dim), k_dim.size)
        return laid_out(x, values, shape), laid_out(x, indices, shape)
    x = transposed(x, others + reduced_dim)

    def best(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = tf.math.top_k(gathered_along(x, reduced_dim), k_dim.size)
        return (
            laid_out_from_gathered(x, values, shape, k_dim),
            laid_out_from_gathered(x, indices, shape, k_dim),
        )

    if not x.mesh.is_distributed or not x.dtype.is_floating:
        return best(x)

    def gradient(
        _inputs: list[Tensor], outputs: list[Tensor], output_grads: list[Tensor]
    ) -> list[Tensor]:
        # TensorFlow's gradient scatters by global positions and fails where x is split.
        is_selected = one_hot(outputs[1], reduced_dim, dtype=x.dtype)
        return [einsum([output_grads[0], is_selected], x.shape)]

    return custom_gradient(best, gradient, [x])


@named
def nth_largest_element(x: TensorLike, n: int, reduced_dim: DimensionLike) -> Tensor:
    """Returns the n-th largest entry along a dimension; the largest is n = 0."""
    values, _ = top_k(x, reduced_dim, Dimension("_rank", n + 1))
    return gather(values, n, Dimension("_rank", n + 1))


@named
def nth_smallest_element(x: TensorLike, n: int, reduced_dim: DimensionLike) -> Tensor:
    """Returns the n-th smallest entry along a dimension; the smallest is n = 0."""
    return negative(nth_largest_element(negative(x), n, reduced_dim))


@named
def sample_with_temperature(
    logits: TensorLike,
    dim: DimensionLike,
    temperature: float = 1.0,
    *,
    key: Key | None = None,
) -> Tensor:
    """Returns int32 indices sampled with probabilities softmax(logits / temperature).

    The index of the largest of logits / temperature plus Gumbel noise is such a sample; Gumbel
    1954. The noise does not depend on the layout.

    Args:
      logits: {..., dim, ...}.
      dim: the dimension that is sampled from.
      temperature: 0 takes the largest and needs no key.
      key: the random key of this call.
    """
    x = as_tensor(logits)
    dim = convert_to_dimension(dim)
    if temperature == 0.0:
        return argmax(x, dim)
    if key is None:
        raise InputError("sample_with_temperature needs a key where temperature is not 0")
    if temperature < 0.0:
        raise InputError(f"temperature={temperature} must not be negative")
    # Within (0, 1), where both logarithms are finite: draws are multiples of 2**-24.
    uniform = random_uniform(x.mesh, x.shape, key=key, minval=2.0**-24, maxval=1.0 - 2.0**-24)
    return argmax(x / temperature - log(-log(uniform)), dim)
