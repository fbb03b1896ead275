"""Dot-product attention as a pure function, and the keys and values that decoding caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf


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
    projection. The softmax is in float32. Storage orders in which the two products need no
    transposes: query {batch..., heads, length, d_kv}, key and value {batch..., heads,
    memory_length, d_kv}.

    Args:
      query: {..., d_kv}, without `memory_length`.
      key, value: {..., memory_length, d_kv}; dimensions that they lack, such as heads, are shared.
      memory_length: the dimension attended to.
      d_kv: the dimension of the product of query and key.
      d_v: the dimension of the values and, last, of the result; None for `d_kv`.
      bias: added to the logits, broadcast by name; in float32, unless it has the query's type: for
        a mask bfloat16 is enough and cheaper, a trained bias should be float32.
      extra_logit: a further logit in the softmax, whose value is 0: attention to nothing.
      drop: applied to the weights, such as dropout.
    """
    logits_shape = [*(query.shape - d_kv), memory_length]
    logits = mtf.einsum([query, key], output_shape=logits_shape)
    if bias is not None:
        if bias.dtype != logits.dtype:
            logits, bias = mtf.to_float(logits), mtf.to_float(bias)
        logits = logits + bias
    weights = mtf.softmax(mtf.to_float(logits), memory_length, extra_logit)
    weights = mtf.cast(weights, value.dtype)
    if drop is not None:
        weights = drop(weights)
    output_shape = query.shape if d_v is None else query.shape - d_kv + d_v
    return mtf.einsum([weights, value], output_shape=output_shape)


class KeysAndValues(NamedTuple):
    """The keys and values of a memory, which decoding caches.

    {batch..., heads, memory_length, d_kv} each, without `heads` where all queries share one head.
    """

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
