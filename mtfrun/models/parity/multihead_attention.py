"""Mesh TensorFlow's multi-head attention as functions of `AttentionParams`.

New models use `layers.MultiHeadAttention`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import (
    causal_mask_at,
    dot_product_attention,
    rename_length_to_memory_length,
)
from mtfrun.models.parity.attention_parameters import AttentionParams

Drop = Callable[[mtf.Tensor], mtf.Tensor]


def attend(
    x: mtf.Tensor,
    keys: mtf.Tensor,
    values: mtf.Tensor,
    memory_length: mtf.Dimension,
    params: AttentionParams,
    *,
    bias: mtf.Tensor | None = None,
    extra_logit: float | None = None,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns the attention of the positions of x to keys and values, in the shape of x.

    Args:
      x: {..., io_channels}.
      keys, values: {..., heads, memory_length, kv_channels}.
      memory_length: the dimension attended to.
      params: the projections, of which `wq` and `wo` are used.
      bias, extra_logit, drop: see `dot_product_attention`.
    """
    mixed = dot_product_attention(
        params.query(x),
        keys,
        values,
        memory_length=memory_length,
        d_kv=params.kv_channels,
        bias=bias,
        extra_logit=extra_logit,
        drop=drop,
    )
    return params.output(mixed, x.shape)


def multihead_attention(
    query_antecedent: mtf.Tensor,
    memory_antecedent: mtf.Tensor | None,
    mask: mtf.Tensor | None,
    params: AttentionParams,
    *,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns {..., length, io_channels}: multi-head attention; Vaswani et al. 2017, section 3.2.2.

    Args:
      query_antecedent: {..., length, io_channels}.
      memory_antecedent: {..., memory_length, io_channels}; None for self-attention.
      mask: added to the logits, see `attention_masks`; float32.
      params: the projections.
      drop: applied to the attention weights, such as dropout.
    """
    memory = memory_antecedent
    if memory is None:
        memory = rename_length_to_memory_length(query_antecedent)
    memory_length = memory.shape.get_dim_by_name("memory_length")
    keys, values = params.key(memory), params.value(memory)
    return attend(query_antecedent, keys, values, memory_length, params, bias=mask, drop=drop)


def multihead_self_attention_incremental(
    query_antecedent: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    params: AttentionParams,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the attention of one position to itself and earlier ones, and the new cache.

    As in the original, the new keys and values are added at the position: it must be zero before.

    Args:
      query_antecedent: {batch..., io_channels}.
      prev_k, prev_v: {batch..., heads, memory_length, kv_channels}.
      step_num: the position, an int32 scalar.
      params: the projections.

    Returns:
      {batch..., io_channels}, and the keys and values with this position.
    """
    memory_length = prev_k.shape.get_dim_by_name("memory_length")
    is_position = mtf.one_hot(step_num, memory_length, dtype=prev_k.dtype)
    k, v = add_to_cache(query_antecedent, prev_k, prev_v, is_position, params)
    mask = causal_mask_at(step_num, memory_length).value(tf.float32)
    return attend(query_antecedent, k, v, memory_length, params, bias=mask), k, v


def add_to_cache(
    x: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    share: mtf.Tensor,
    params: AttentionParams,
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns a cache with a share of one position's keys and values added to every entry.

    Args:
      x: {batch..., io_channels}.
      prev_k, prev_v: {batch..., heads, memory_length, kv_channels}.
      share: {memory_length}, with batch dimensions where rows differ.
      params: the projections.
    """
    return (
        prev_k + mtf.multiply(params.key(x), share, output_shape=prev_k.shape),
        prev_v + mtf.multiply(params.value(x), share, output_shape=prev_v.shape),
    )


def multihead_encdec_attention_incremental(
    query_antecedent: mtf.Tensor,
    wq: mtf.Tensor,
    wo: mtf.Tensor,
    k: mtf.Tensor,
    v: mtf.Tensor,
    mask: mtf.Tensor | None,
) -> mtf.Tensor:
    """Returns the attention of one position to keys and values that are computed already.

    Args:
      query_antecedent: {batch..., io_channels}, with a beam dimension or without.
      wq, wo: {heads, io_channels, kv_channels}.
      k, v: {batch..., heads, memory_length, kv_channels}, shared by the beams.
      mask: {batch..., memory_length}, added to the logits; float32.

    Returns:
      {batch..., io_channels}.
    """
    params = AttentionParams(wq, wq, wq, wo)
    memory_length = k.shape.get_dim_by_name("memory_length")
    return attend(query_antecedent, k, v, memory_length, params, bias=mask)
