"""Tensor2Tensor's local and memory-compressed attention for long sequences.

New models use `transformer.LocalSelfAttention`.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.parity.multihead_attention import (
    AttentionParams,
    Drop,
    ProjectedAttention,
    add_to_cache,
    attend,
)
from mtfrun.layers import MASKED, Dropout, KeysAndValues, rename_length_to_memory_length
from mtfrun.models.transformer import SequenceCall
from mtfrun.models.transformer.local_self_attention import ring_dimension, write_to_ring


def masked_local_attention_1d(
    x: mtf.Tensor,
    params: AttentionParams,
    window_size: int = 128,
    length_per_split: int | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns causal self-attention of x {..., length, io_channels} in blocks, keys and values.

    A block attends to itself and the `window_size` positions before it. As in the original, a
    position attends to at most a block's length, and the softmax includes the zeros before the
    start. A split length is gathered unless every device has whole blocks.

    Args:
      length_per_split: the length that blocks divide, by default x's; a block is the largest
        divisor up to max(window_size, 128). It is independent of the layout.
    """
    *batch, length, _ = x.shape.dims
    inner = [*batch, params.heads, length, params.kv_channels]
    k, v = (mtf.transpose(y, inner) for y in params.keys_and_values(x))
    whole, limit = length_per_split or length.size, max(window_size, 128)
    block_size = max(d for d in range(1, min(whole, limit) + 1) if whole % d == 0)
    num_blocks = length.size // block_size
    # Blocks named as the length keep its split, if the mesh divides them.
    is_split = num_blocks % x.mesh.num_splits(length) == 0
    blocks = mtf.Dimension(length.name if is_split else "length_blocks", num_blocks)
    block = mtf.Dimension("block_length", block_size)
    memory = mtf.Dimension("memory_length", block_size)

    def with_lookback(y: mtf.Tensor) -> mtf.Tensor:
        y = mtf.replace_dimensions(y, length, [blocks, memory])
        return mtf.left_halo_exchange(y, blocks, memory, window_size)

    memory_length = mtf.Dimension("memory_length", block_size + window_size)
    # To the last block_size positions.
    query = np.arange(block_size)[:, np.newaxis]
    position = np.arange(-window_size, block_size)
    visible = (position <= query) & (position > query - block_size)
    mask = mtf.constant(x.mesh, np.where(visible, 0.0, MASKED), [block, memory_length])
    x = mtf.replace_dimensions(x, length, [blocks, block])
    y = attend(x, with_lookback(k), with_lookback(v), memory_length, params, bias=mask)
    return mtf.replace_dimensions(y, [blocks, block], length), k, v


def masked_local_attention_1d_incremental(
    x: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    params: AttentionParams,
    condition: mtf.Tensor | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the attention of a step to the cached window, and the new cache.

    The cache {batch..., heads, window_length, kv_channels} is a ring, see `ring_positions`. As in
    the original, the softmax includes entries not yet written, which are zeros. Rows without
    `condition` do not change.
    """
    cache, entries = KeysAndValues(prev_k, prev_v), params.keys_and_values(x)
    ring: KeysAndValues
    ring, window = write_to_ring(cache, entries, step_num, condition)
    return attend(x, *ring, window, params), *ring


class MaskedLocalAttention(ProjectedAttention):
    """Causal attention in blocks; see `masked_local_attention_1d`.

    As in the original, a decoding step attends only to the last `window` positions, not to the
    block. Packed documents attend to each other.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        d_kv: int = 64,
        window: int = 128,
    ) -> None:
        incremental = masked_local_attention_1d_incremental
        super().__init__(mesh, d_model, dtypes, incremental, num_heads=num_heads, d_kv=d_kv)
        self._window = window

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return masked_local_attention_1d(x, self.parameters.projections(), self._window)[0]

    def _cache_dimension(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        return ring_dimension(self._window)


def multihead_self_attention_memory_compressed(
    x: mtf.Tensor,
    mask_right: bool,
    compression_factor: int,
    params: AttentionParams,
    *,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns self-attention of x {..., length, io_channels} to means of groups of positions.

    The softmax has an extra logit of 0. With `mask_right` only positions from a group's last on
    attend to it.
    """
    length = x.shape.get_dim_by_name("length")
    memory = rename_length_to_memory_length(x)
    positions = memory.shape.get_dim_by_name("memory_length")
    memory = compress_mean(memory, positions, compression_factor)
    groups = memory.shape.get_dim_by_name("memory_length")
    mask = None
    if mask_right:
        last = _last_positions(x.mesh, groups, compression_factor)
        hidden = mtf.less(mtf.range(x.mesh, length), last, output_shape=[length, groups])
        mask = mtf.cast(hidden, tf.float32) * MASKED
    keys, values = params.keys_and_values(memory)
    return attend(x, keys, values, groups, params, bias=mask, extra_logit=0.0, drop=drop)


def multihead_self_attention_memory_compressed_incremental(
    x: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    compression_factor: int,
    params: AttentionParams,
    condition: mtf.Tensor | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the attention of a step to completed groups, and the new cache.

    Projections are linear: the key of a group's mean is the mean of its keys, which the cache
    {batch..., heads, memory_length, kv_channels}, initially zero, sums up. Rows without `condition`
    do not change.
    """
    groups = prev_k.shape.get_dim_by_name("memory_length")
    group = mtf.floordiv(step_num, compression_factor)
    share = mtf.one_hot(group, groups, on_value=1.0 / compression_factor, dtype=prev_k.dtype)
    if condition is not None:
        share = share * mtf.cast(condition, share.dtype)
    k, v = add_to_cache(x, prev_k, prev_v, share, params)
    last = _last_positions(x.mesh, groups, compression_factor)
    mask = mtf.to_float(mtf.greater(last, step_num)) * MASKED
    return attend(x, k, v, groups, params, bias=mask, extra_logit=0.0), k, v


def compress_mean(x: mtf.Tensor, dim: mtf.Dimension, compression_factor: int) -> mtf.Tensor:
    """Averages groups of neighbours along `dim`."""
    return mtf.pool_tensor_1d(x, dim, mtf.reduce_mean, compression_factor)


def _last_positions(mesh: mtf.Mesh, groups: mtf.Dimension, compression_factor: int) -> mtf.Tensor:
    return mtf.range(mesh, groups) * compression_factor + (compression_factor - 1)


class CompressedSelfAttention(ProjectedAttention):
    """Attention to means of groups; see `multihead_self_attention_memory_compressed`.

    `compression_factor` must divide the length of sequences. Packed documents attend to each other.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        d_kv: int = 64,
        compression_factor: int = 4,
        dropout_rate: float = 0.0,
    ) -> None:
        incremental = functools.partial(
            multihead_self_attention_memory_compressed_incremental,
            compression_factor=compression_factor,
        )
        super().__init__(mesh, d_model, dtypes, incremental, num_heads=num_heads, d_kv=d_kv)
        self._compression_factor = compression_factor
        self.dropout = Dropout(dropout_rate)

    @property
    def depends_on_padding(self) -> bool:
        return True

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return multihead_self_attention_memory_compressed(
            x,
            not call.bidirectional,
            self._compression_factor,
            self.parameters.projections(),
            drop=functools.partial(self.dropout, call=call),
        )

    def _cache_dimension(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        number = -(-memory_length.size // self._compression_factor)
        return mtf.Dimension(memory_length.name, number)
