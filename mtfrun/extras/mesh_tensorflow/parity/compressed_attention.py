"""Memory-compressed attention: every position attends to the means of groups of positions.

Liu et al. 2018, arXiv:1801.10198, section 4.2.4, with means in the place of the convolution.
"""

from __future__ import annotations

import functools

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


def multihead_self_attention_memory_compressed(
    x: mtf.Tensor,
    mask_right: bool,
    compression_factor: int,
    params: AttentionParams,
    *,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns self-attention of x {..., length, io_channels} to the means of groups of positions.

    With a further logit of 0 a position attends to nothing. `mask_right`: only the last position of
    a group and later ones attend to it.
    """
    length = x.shape.get_dim_by_name("length")
    memory, groups = _group_means(x, compression_factor)
    mask = None
    if mask_right:
        last = _last_positions(x.mesh, groups, compression_factor)
        hidden = mtf.less(mtf.range(x.mesh, length), last, output_shape=[length, groups])
        mask = mtf.cast(hidden, tf.float32) * MASKED
    keys, values = params.key(memory), params.value(memory)
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
    """Returns the attention of one position to the groups that it completes or follows.

    The projections are linear, so the key of a group's mean is the mean of its positions' keys: the
    cache {batch..., heads, memory_length, kv_channels} of groups, first zeros, holds the sum of the
    keys computed so far, divided by the size of a group. Rows without `condition` do not change.
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


def _memory_compressed_keys_and_values(
    x: mtf.Tensor, number: mtf.Tensor, compression_factor: int, params: AttentionParams
) -> KeysAndValues:
    """Returns the cache of the incremental function after `number` {batch...} positions of x."""
    length = x.shape.dims[-2]
    positions = mtf.range(x.mesh, length)
    is_cached = mtf.less(positions, number, output_shape=[*number.shape, length])
    means, _ = _group_means(x * mtf.cast(is_cached, x.dtype), compression_factor)
    return params.keys_and_values(means)


def compress_mean(x: mtf.Tensor, dim: mtf.Dimension, compression_factor: int) -> mtf.Tensor:
    """Returns x with the means of groups of neighbours along `dim`."""
    return mtf.pool_tensor_1d(x, dim, mtf.reduce_mean, compression_factor)


def _group_means(x: mtf.Tensor, compression_factor: int) -> tuple[mtf.Tensor, mtf.Dimension]:
    """Returns the means {..., memory_length, io_channels} of groups, and their dimension."""
    memory = rename_length_to_memory_length(x)
    positions = memory.shape.get_dim_by_name("memory_length")
    memory = compress_mean(memory, positions, compression_factor)
    return memory, memory.shape.get_dim_by_name("memory_length")


def _last_positions(mesh: mtf.Mesh, groups: mtf.Dimension, compression_factor: int) -> mtf.Tensor:
    return mtf.range(mesh, groups) * compression_factor + (compression_factor - 1)


class CompressedSelfAttention(ProjectedAttention):
    """Attention to means of groups; see `multihead_self_attention_memory_compressed`.

    `compression_factor` must divide the length of whole sequences. Documents of packed rows attend
    to each other.
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
        super().__init__(mesh, d_model, dtypes, num_heads=num_heads, d_kv=d_kv)
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

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        y, *cache = multihead_self_attention_memory_compressed_incremental(
            x,
            *state,
            call.progress.step_position(),
            self._compression_factor,
            self.parameters.projections(),
            call.progress.is_after_prompt(),
        )
        return y, KeysAndValues(*cache)

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        length = x.shape.get_dim_by_name("length")
        padding = -length.size % self._compression_factor
        x = mtf.pad(x, [0, padding], length.name)
        cache = _memory_compressed_keys_and_values(
            x,
            call.progress.prefill_lengths(),
            self._compression_factor,
            self.parameters.projections(),
        )
        return mtf.slice(self(x, call), 0, length.size, length.name), cache

    def _cache_dimension(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        number = -(-memory_length.size // self._compression_factor)
        return mtf.Dimension(memory_length.name, number)
