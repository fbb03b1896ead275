"""Dot-product attention as a pure function, its heads, and cached keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class AttentionHeads:
    """The number and the size of the heads of attention, and what their projections have.

    Attributes:
      num_heads: the number of queries of a position.
      num_memory_heads: the number of keys and values of a position, which divides `num_heads`; None
        for as many. Fewer are shared by queries (Ainslie et al. 2023, arXiv:2305.13245), one by all
        (Shazeer 2019, arXiv:1911.02150).
      d_kv: the size of a query, a key or a value.
      scaled_logits: logits are divided by the square root of `d_kv`, as in Vaswani et al. 2017,
        arXiv:1706.03762, equation 1. Otherwise, as in Mesh TensorFlow, this factor is part of the
        initial projection of queries.
      use_bias: the projections to queries, keys and values have biases.
      use_output_bias: the projection of the result has one.
    """

    num_heads: int = 8
    num_memory_heads: int | None = None
    d_kv: int = 64
    scaled_logits: bool = False
    use_bias: bool = False
    use_output_bias: bool = False

    def __post_init__(self) -> None:
        for name, size in (("heads", self.num_heads), ("d_kv", self.d_kv)):
            mtf.convert_to_dimension((name, size))  # raises a ShapeError
        if self._num_memory_heads < 1 or self.num_heads % self._num_memory_heads:
            raise InputError(
                f"num_memory_heads={self.num_memory_heads} must divide num_heads={self.num_heads}"
            )

    @property
    def query_dims(self) -> list[mtf.Dimension]:
        """The dimensions of the queries of a position: {heads}; grouped {heads, query_heads}."""
        heads, memory_heads = self.num_heads, self._num_memory_heads
        if memory_heads in (1, heads):
            return [mtf.Dimension("heads", heads)]
        group = mtf.Dimension("query_heads", heads // memory_heads)
        return [mtf.Dimension("heads", memory_heads), group]

    @property
    def memory_dims(self) -> list[mtf.Dimension]:
        """The dimensions of the keys and values of a position: {heads}; {} with one memory head."""
        memory_heads = self._num_memory_heads
        return [] if memory_heads == 1 else [mtf.Dimension("heads", memory_heads)]

    @property
    def size_dim(self) -> mtf.Dimension:
        """The dimension of a query, a key or a value."""
        return mtf.Dimension("d_kv", self.d_kv)

    @property
    def _num_memory_heads(self) -> int:
        return self.num_memory_heads or self.num_heads


def dot_product_attention(
    query: mtf.TensorLike,
    key: mtf.TensorLike,
    value: mtf.TensorLike,
    *,
    memory_length: mtf.Dimension,
    d_kv: mtf.Dimension,
    d_v: mtf.Dimension | None = None,
    bias: mtf.TensorLike | None = None,
    extra_logit: float | mtf.TensorLike | None = None,
    drop: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
) -> mtf.Tensor:
    """Returns softmax(query * key + bias) * value; Vaswani et al. 2017, arXiv:1706.03762, eq. 1.

    Without the paper's factor d_kv ** -0.5: as in Mesh TensorFlow it is part of the initial query
    projection. The softmax is in float32. No transposes: query {batch..., heads, length, d_kv}, key
    and value {batch..., heads, memory_length, d_kv}, which share the dimensions that they lack.

    Args:
      d_v: the dimension of the values and, last, of the result; None for `d_kv`.
      bias: added to the logits, broadcast by name; in float32, unless it has the query's type: for
        a mask bfloat16 is enough and cheaper.
      extra_logit: a further logit in the softmax, whose value is 0: attention to nothing.
      drop: applied to the weights, such as dropout.
    """
    logits_shape = [*(query.shape - d_kv), memory_length]
    logits = mtf.einsum([query, key], output_shape=logits_shape)
    if bias is not None:
        if bias.dtype != logits.dtype:
            logits, bias = mtf.to_float(logits), mtf.to_float(bias)
        logits = logits + bias
    if extra_logit is None and value.dtype != tf.float32:
        weights = _rounded_softmax(logits, memory_length, value.dtype)
    else:
        weights = mtf.softmax(mtf.to_float(logits), memory_length, extra_logit)
        weights = mtf.cast(weights, value.dtype)
    if drop is not None:
        weights = drop(weights)
    output_shape = query.shape if d_v is None else query.shape - d_kv + d_v
    return mtf.einsum([weights, value], output_shape=output_shape)


def _rounded_softmax(logits: mtf.Tensor, dim: mtf.Dimension, dtype: tf.DType) -> mtf.Tensor:
    """Returns the float32 softmax, cast to a smaller type, which alone is stored for the gradient.

    The gradient of the product with the values needs the rounded weights anyway.
    """

    def forward(logits: mtf.Tensor) -> mtf.Tensor:
        return mtf.cast(mtf.softmax(mtf.to_float(logits), dim), dtype)

    def backward(
        inputs: Sequence[mtf.Tensor], outputs: Sequence[mtf.Tensor], grads: Sequence[mtf.Tensor]
    ) -> list[mtf.Tensor]:
        weights, gradient = outputs[0], mtf.to_float(grads[0])
        if not weights.mesh.is_distributed:
            # Otherwise the cast, which needs nothing else, runs in the forward pass.
            weights = mtf.compute_after(gradient, weights)
        weights = mtf.to_float(weights)
        mean = mtf.reduce_sum(weights * gradient, reduced_dim=dim)
        return [mtf.cast(weights * (gradient - mean), inputs[0].dtype)]

    return mtf.custom_gradient(forward, backward, [logits])


class KeysAndValues(NamedTuple):
    """Cached {batch..., heads, memory_length, d_kv} each, without `heads` if queries share one."""

    keys: mtf.Tensor
    values: mtf.Tensor

    @classmethod
    def zeros(cls, mesh: mtf.Mesh, shape: mtf.ShapeLike, dtype: tf.DType) -> KeysAndValues:
        """Returns the empty cache of this shape."""
        zeros = mtf.zeros(mesh, shape, dtype)
        return cls(zeros, zeros)

    def map(self, function: Callable[..., mtf.Tensor], *others: KeysAndValues) -> KeysAndValues:
        """Returns function(keys, ...) and function(values, ...), of several such pairs."""
        return KeysAndValues(*map(function, self, *others))
