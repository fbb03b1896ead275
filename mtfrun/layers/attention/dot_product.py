"""Dot-product attention: as a pure function, and of whole sequences, at once or in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.attention.blocks import attention_in_blocks
from mtfrun.layers.attention.cache import AttentionMemory
from mtfrun.layers.attention.heads import soft_cap
from mtfrun.layers.attention.masks import AttentionBias
from mtfrun.layers.dropout import AttentionDropout
from mtfrun.layers.recompute import ATTENTION


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
      extra_logit: a further logit in the softmax, with the value 0.
      drop: applied to the weights, such as dropout.
    """
    logits = attention_logits(query, key, memory_length=memory_length, d_kv=d_kv)
    return mix_values(
        logits,
        value,
        memory_length=memory_length,
        output_shape=query.shape if d_v is None else query.shape - d_kv + d_v,
        bias=bias,
        extra_logit=extra_logit,
        drop=drop,
    )


def attention_logits(
    query: mtf.TensorLike,
    key: mtf.TensorLike,
    *,
    memory_length: mtf.Dimension,
    d_kv: mtf.Dimension,
    cap: float | None = None,
) -> mtf.Tensor:
    """Returns query * key {..., length, memory_length}, float32 where `soft_cap` limits it."""
    logits_shape = [*(query.shape - d_kv), memory_length]
    logits = mtf.einsum([query, key], output_shape=logits_shape)
    return logits if cap is None else soft_cap(mtf.to_float(logits), cap)


def mix_values(
    logits: mtf.Tensor,
    value: mtf.TensorLike,
    *,
    memory_length: mtf.Dimension,
    output_shape: mtf.ShapeLike,
    bias: mtf.TensorLike | None = None,
    extra_logit: float | mtf.TensorLike | None = None,
    drop: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
) -> mtf.Tensor:
    """Returns softmax(logits + bias) * value; for the arguments see `dot_product_attention`."""
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
        gradient = mtf.to_float(grads[0])
        # Otherwise the cast runs in the forward pass.
        weights = mtf.to_float(mtf.compute_after(gradient, outputs[0]))
        mean = mtf.reduce_sum(weights * gradient, reduced_dim=dim)
        return [mtf.cast(weights * (gradient - mean), inputs[0].dtype)]

    return mtf.custom_gradient(forward, backward, [logits])


@dataclasses.dataclass(frozen=True)
class BiasedMemory:
    """Keys and values {..., memory_length, d_kv}, the bias of their logits, and dropout.

    Values may have another last dimension, which the result of attention then has.
    """

    contents: AttentionMemory
    bias: AttentionBias
    dropout: AttentionDropout | None = None

    def logits(self, query: mtf.Tensor, cap: float | None) -> mtf.Tensor:
        """Returns {..., length, memory_length} without the bias."""
        memory_length, d_kv = self.contents.keys.shape.dims[-2:]
        return attention_logits(
            query, self.contents.keys, memory_length=memory_length, d_kv=d_kv, cap=cap
        )

    def in_blocks(
        self, query: mtf.Tensor, block_length: int | None, cap: float | None
    ) -> tuple[mtf.Tensor, mtf.Tensor] | None:
        """Returns `attention_in_blocks` for longer sequences than a block, else None."""
        longest = max(query.shape[-2].size, self.contents.keys.shape[-2].size)
        if block_length is None or block_length >= longest:
            return None
        return attention_in_blocks(
            query,
            self.contents,
            self.bias,
            block_length=block_length,
            dropout=self.dropout,
            cap=cap,
        )


def attend(
    query: mtf.Tensor,
    memory: BiasedMemory,
    *,
    block_length: int | None = None,
    cap: float | None = None,
    extra_logit: float | None = None,
    record: Callable[[mtf.Tensor], None] | None = None,
) -> mtf.Tensor:
    """Returns `dot_product_attention` of whole sequences.

    query: {..., length, d_kv}.

    Args:
      block_length: longer sequences are computed by `attention_in_blocks`; None never.
      record: takes the weights {..., length, memory_length} where there are no blocks.
    """
    in_blocks = memory.in_blocks(query, block_length, cap)
    if in_blocks is not None:
        mixed, log_sum = in_blocks
        if extra_logit is None:
            return mixed
        # The memory's share of a softmax with a further logit.
        return mixed * mtf.cast(mtf.sigmoid(log_sum - extra_logit), mixed.dtype)

    def record_and_drop(weights: mtf.Tensor) -> mtf.Tensor:
        if record is not None:
            record(weights)
        return weights if memory.dropout is None else memory.dropout(weights)

    logits, values = memory.logits(query, cap), memory.contents.values
    mixed = mix_values(
        logits,
        values,
        memory_length=values.shape[-2],
        output_shape=[*query.shape.dims[:-1], values.shape[-1]],
        bias=memory.bias.value(query.dtype, logits.shape),
        extra_logit=extra_logit,
        drop=record_and_drop,
    )
    return mtf.keep(mixed, ATTENTION)


def attend_to_both(
    query: mtf.Tensor,
    first: BiasedMemory,
    second: BiasedMemory,
    *,
    block_length: int | None = None,
    cap: float | None = None,
) -> mtf.Tensor:
    """Returns attention with one softmax over two memories.

    query: {..., length, d_kv}; for `block_length` and `cap` see `attend`. A memory's share of the
    softmax over both is its sum of exp(logits) by the sum of both: the sigmoid of the difference of
    their logarithms.
    """
    (mixed, log_sum), (other, other_log_sum) = (
        memory.in_blocks(query, block_length, cap) or _mix_and_sum(query, memory, cap)
        for memory in (first, second)
    )
    share = mtf.cast(mtf.sigmoid(other_log_sum - log_sum), mixed.dtype)
    return mixed + (other - mixed) * share


def _mix_and_sum(
    query: mtf.Tensor, memory: BiasedMemory, cap: float | None
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the attention to a memory, and the logarithm of its sum of exp(logits), float32."""
    logits, values = memory.logits(query, cap), memory.contents.values
    bias = memory.bias.value(query.dtype, logits.shape)
    logits = mtf.to_float(logits) if bias is None else mtf.to_float(logits) + mtf.to_float(bias)
    mixed = mix_values(
        logits,
        values,
        memory_length=values.shape[-2],
        output_shape=query.shape,
        drop=memory.dropout,
    )
    return mixed, mtf.reduce_logsumexp(logits, values.shape[-2])
