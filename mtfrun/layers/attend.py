"""Dot-product attention of whole sequences, at once or in blocks."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers.attention import KeysAndValues, attention_logits, mix_values
from mtfrun.layers.attention_in_blocks import attention_in_blocks
from mtfrun.layers.attention_masks import AttentionBias
from mtfrun.layers.dropout import AttentionDropout
from mtfrun.layers.recompute import ATTENTION


def attend(
    query: mtf.Tensor,
    memory: KeysAndValues,
    bias: AttentionBias,
    *,
    block_length: int | None = None,
    dropout: AttentionDropout | None = None,
    cap: float | None = None,
    record: Callable[[mtf.Tensor], None] | None = None,
) -> mtf.Tensor:
    """Returns `dot_product_attention` of whole sequences.

    query: {..., length, d_kv}; memory: {..., memory_length, d_kv}, of which values may have another
    last dimension, which the result has.

    Args:
      block_length: longer sequences are computed by `attention_in_blocks`; None for none.
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
            bias=bias.value(query.dtype, [*(query.shape - d_kv), memory_length]),
            drop=record_and_drop,
        )
        return mtf.keep(mixed, ATTENTION)
    # Blocks need queries, keys and values of one size.
    size = mtf.Dimension(d_kv.name, max(d_kv.size, d_v.size))
    query, keys, values = (_with_zeros(x, size) for x in (query, memory.keys, memory.values))
    mixed = attention_in_blocks(
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
    if size == d_v:
        return mixed
    return mtf.rename_dimension(mtf.slice(mixed, 0, d_v.size, size.name), size.name, d_v.name)


def _with_zeros(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns x with this as its last dimension, and zeros behind its entries."""
    last = x.shape.dims[-1]
    if last.name != dim.name:
        x = mtf.rename_dimension(x, last.name, dim.name)
    return x if last.size == dim.size else mtf.pad(x, [0, dim.size - last.size], dim.name)
