"""Attention of Mesh TensorFlow's layers over whole sequences, and position by position.

`MultiHeadAttention` is the class that our Transformer uses; these are for models that are ported.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers.attention import dot_product_attention
from mtfrun.layers.attention_masks import (
    MASKED,
    attention_mask_up_to,
    rename_length_to_memory_length,
)
from mtfrun.layers.attention_parameters import AttentionParams

Drop = Callable[[mtf.Tensor], mtf.Tensor]


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
    mixed = dot_product_attention(
        params.query(query_antecedent),
        params.key(memory),
        params.value(memory),
        memory_length=memory.shape.get_dim_by_name("memory_length"),
        d_kv=params.kv_channels,
        bias=mask,
        drop=drop,
    )
    return params.output(mixed, query_antecedent.shape)


def multihead_self_attention_incremental(
    query_antecedent: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    params: AttentionParams,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the attention of one more position to it and those before, and the new memory.

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
    here = mtf.one_hot(step_num, memory_length, dtype=prev_k.dtype)
    k = prev_k + mtf.multiply(params.key(query_antecedent), here, output_shape=prev_k.shape)
    v = prev_v + mtf.multiply(params.value(query_antecedent), here, output_shape=prev_v.shape)
    mixed = dot_product_attention(
        params.query(query_antecedent),
        k,
        v,
        memory_length=memory_length,
        d_kv=params.kv_channels,
        bias=attention_mask_up_to(memory_length, step_num),
    )
    return params.output(mixed, query_antecedent.shape), k, v


def multihead_encdec_attention_incremental(
    query_antecedent: mtf.Tensor,
    wq: mtf.Tensor,
    wo: mtf.Tensor,
    k: mtf.Tensor,
    v: mtf.Tensor,
    mask: mtf.Tensor | None,
) -> mtf.Tensor:
    """Returns the attention of one position to a memory whose keys and values are known.

    Args:
      query_antecedent: {batch..., io_channels}, with a beam dimension or without.
      wq, wo: {heads, io_channels, kv_channels}.
      k, v: {batch..., heads, memory_length, kv_channels}, shared by the beams.
      mask: {batch..., memory_length}, added to the logits; float32.

    Returns:
      {batch..., io_channels}.
    """
    params = AttentionParams(wq, wq, wq, wo)
    mixed = dot_product_attention(
        params.query(query_antecedent),
        k,
        v,
        memory_length=k.shape.get_dim_by_name("memory_length"),
        d_kv=params.kv_channels,
        bias=mask,
    )
    return params.output(mixed, query_antecedent.shape)


def multihead_self_attention_memory_compressed(
    x: mtf.Tensor,
    mask_right: bool,
    compression_factor: int,
    params: AttentionParams,
    *,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns self-attention to means of neighbouring positions; Liu et al. 2018, arXiv:1801.10198.

    Section 4.2.4, with means for the convolution. A further logit of 0 lets a position attend to
    nothing.

    Args:
      x: {..., length, io_channels}.
      mask_right: a group of positions is seen only from its last one on.
      compression_factor: the positions in a group.
      params: the projections.
      drop: applied to the attention weights.
    """
    length = x.shape.get_dim_by_name("length")
    memory = rename_length_to_memory_length(x)
    whole = memory.shape.get_dim_by_name("memory_length")
    memory = compress_mean(memory, whole, compression_factor)
    groups = memory.shape.get_dim_by_name("memory_length")
    mask = None
    if mask_right:
        last = mtf.range(x.mesh, groups) * compression_factor + (compression_factor - 1)
        hidden = mtf.less(mtf.range(x.mesh, length), last, output_shape=[length, groups])
        mask = mtf.cast(hidden, tf.float32) * MASKED
    mixed = dot_product_attention(
        params.query(x),
        params.key(memory),
        params.value(memory),
        memory_length=groups,
        d_kv=params.kv_channels,
        bias=mask,
        extra_logit=0.0,
        drop=drop,
    )
    return params.output(mixed, x.shape)


def multihead_self_attention_memory_compressed_incremental(
    x: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    compression_factor: int,
    params: AttentionParams,
    condition: mtf.Tensor | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the attention of one more position to the groups that it completes or follows.

    The projections are linear, so the key of a group's mean is the mean of its positions' keys: the
    memory has the sum of what is known of them, over the size of a group.

    Args:
      x: {batch..., io_channels}.
      prev_k, prev_v: {batch..., heads, memory_length, kv_channels}, of groups; first zeros.
      step_num: the position, an int32 scalar.
      compression_factor: the positions in a group.
      params: the projections.
      condition: {batch...} bool, the rows whose memory changes; None for all.

    Returns:
      {batch..., io_channels}, and the keys and values with this position.
    """
    groups = prev_k.shape.get_dim_by_name("memory_length")
    group = mtf.floordiv(step_num, compression_factor)
    share = mtf.one_hot(group, groups, on_value=1.0 / compression_factor, dtype=prev_k.dtype)
    if condition is not None:
        share = share * mtf.cast(condition, share.dtype)
    k = prev_k + mtf.multiply(params.key(x), share, output_shape=prev_k.shape)
    v = prev_v + mtf.multiply(params.value(x), share, output_shape=prev_v.shape)
    last = mtf.range(x.mesh, groups) * compression_factor + (compression_factor - 1)
    mixed = dot_product_attention(
        params.query(x),
        k,
        v,
        memory_length=groups,
        d_kv=params.kv_channels,
        bias=mtf.to_float(mtf.greater(last, step_num)) * MASKED,
        extra_logit=0.0,
    )
    return params.output(mixed, x.shape), k, v


def memory_compressed_keys_and_values(
    x: mtf.Tensor, number: mtf.Tensor, compression_factor: int, params: AttentionParams
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the memory of `multihead_self_attention_memory_compressed_incremental` after steps.

    Args:
      x: {batch..., length, io_channels}.
      number: {batch...} int32, how many positions of a row are in the memory.
      compression_factor: the positions in a group.
      params: the projections.

    Returns:
      {batch..., heads, memory_length, kv_channels} twice, of groups.
    """
    *batch, length, _ = x.shape.dims
    positions = mtf.range(x.mesh, length)
    known = mtf.less(positions, number, output_shape=[*number.shape, length])
    memory = rename_length_to_memory_length(x * mtf.cast(known, x.dtype))
    whole = memory.shape.get_dim_by_name("memory_length")
    memory = compress_mean(memory, whole, compression_factor)
    groups = memory.shape.get_dim_by_name("memory_length")
    shape = [*batch, params.heads, groups, params.kv_channels]
    return (
        mtf.transpose(params.key(memory), shape),
        mtf.transpose(params.value(memory), shape),
    )


def compress_mean(x: mtf.Tensor, dim: mtf.Dimension, compression_factor: int) -> mtf.Tensor:
    """Returns x with `dim` shorter by a factor: the means of neighbours along it."""
    return mtf.pool_tensor_1d(x, dim, mtf.reduce_mean, compression_factor)
