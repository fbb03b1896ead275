"""Dot-product attention of whole sequences, at once or in blocks, to one memory or to two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers.attention.blocks import attention_in_blocks
from mtfrun.layers.attention.dot_product import (
    AttentionMemory,
    KeysAndValues,
    attention_logits,
    mix_values,
)
from mtfrun.layers.attention.masks import AttentionBias
from mtfrun.layers.dropout import AttentionDropout
from mtfrun.layers.recompute import ATTENTION


def attend(
    query: mtf.Tensor,
    memory: AttentionMemory,
    bias: AttentionBias,
    *,
    block_length: int | None = None,
    dropout: AttentionDropout | None = None,
    cap: float | None = None,
    extra_logit: float | None = None,
    record: Callable[[mtf.Tensor], None] | None = None,
) -> mtf.Tensor:
    """Returns `dot_product_attention` of whole sequences.

    query: {..., length, d_kv}; memory: {..., memory_length, d_kv}; values may have another last
    dimension, which the result has.

    Args:
      block_length: longer sequences are computed by `attention_in_blocks`; None never.
      record: takes the weights {..., length, memory_length} where there are no blocks.
    """
    length, d_kv = query.shape.dims[-2:]
    memory_length, d_v = memory.values.shape.dims[-2:]
    if block_length is None or block_length >= max(length.size, memory_length.size):

        def record_and_drop(weights: mtf.Tensor) -> mtf.Tensor:
            if record is not None:
                record(weights)
            return weights if dropout is None else dropout(weights)

        logits = attention_logits(
            query, memory.keys, memory_length=memory_length, d_kv=d_kv, cap=cap
        )
        mixed = mix_values(
            logits,
            memory.values,
            memory_length=memory_length,
            output_shape=query.shape - d_kv + d_v,
            bias=bias.value(query.dtype, logits.shape),
            extra_logit=extra_logit,
            drop=record_and_drop,
        )
        return mtf.keep(mixed, ATTENTION)
    # Blocks need queries, keys and values of one size.
    size = mtf.Dimension(d_kv.name, max(d_kv.size, d_v.size))
    query, keys, values = (_with_zeros(x, size) for x in (query, memory.keys, memory.values))
    mixed, log_sum = attention_in_blocks(
        query,
        KeysAndValues(keys, values),
        bias,
        length=length,
        memory_length=memory_length,
        d_kv=size,
        block_length=block_length,
        dropout=dropout,
        cap=cap,
    )
    if extra_logit is not None:
        # The memory's share of a softmax with a further logit.
        mixed = mixed * mtf.cast(mtf.sigmoid(log_sum - extra_logit), mixed.dtype)
    if size == d_v:
        return mixed
    return mtf.rename_dimension(mtf.slice(mixed, 0, d_v.size, size.name), size.name, d_v.name)


@dataclasses.dataclass(frozen=True)
class BiasedMemory:
    """Keys and values {..., memory_length, d_kv}, the bias of their logits, and dropout."""

    contents: AttentionMemory
    bias: AttentionBias
    dropout: AttentionDropout | None = None


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
    mixed, log_sum = _mix_and_sum(query, first, block_length, cap)
    other, other_log_sum = _mix_and_sum(query, second, block_length, cap)
    share = mtf.cast(mtf.sigmoid(other_log_sum - log_sum), mixed.dtype)
    return mixed + (other - mixed) * share


def _mix_and_sum(
    query: mtf.Tensor, memory: BiasedMemory, block_length: int | None, cap: float | None
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the attention to a memory, and the logarithm of its sum of exp(logits), float32."""
    keys, values = memory.contents.keys, memory.contents.values
    (length, d_kv), memory_length = query.shape.dims[-2:], keys.shape.dims[-2]
    if block_length is not None and block_length < max(length.size, memory_length.size):
        return attention_in_blocks(
            query,
            memory.contents,
            memory.bias,
            length=length,
            memory_length=memory_length,
            d_kv=d_kv,
            block_length=block_length,
            dropout=memory.dropout,
            cap=cap,
        )
    logits = attention_logits(query, keys, memory_length=memory_length, d_kv=d_kv, cap=cap)
    bias = memory.bias.value(query.dtype, logits.shape)
    logits = mtf.to_float(logits) if bias is None else mtf.to_float(logits) + mtf.to_float(bias)
    mixed = mix_values(
        logits, values, memory_length=memory_length, output_shape=query.shape, drop=memory.dropout
    )
    return mixed, mtf.reduce_logsumexp(logits, memory_length)


def _with_zeros(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns x with this as its last dimension, and zeros behind its entries."""
    last = x.shape.dims[-1]
    if last.name != dim.name:
        x = mtf.rename_dimension(x, last.name, dim.name)
    return x if last.size == dim.size else mtf.pad(x, [0, dim.size - last.size], dim.name)
