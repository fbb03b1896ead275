"""Mesh TensorFlow's multi-head attention: projections, masks, functions, a sublayer's base.

New models use `layers.MultiHeadAttention`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import (
    MASKED,
    KeysAndValues,
    causal_mask_at,
    dot_product_attention,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer import SequenceCall, Sublayer


class AttentionParams(NamedTuple):
    """Projections, each {heads, io_channels, kv_channels}; see `AttentionParameters`."""

    wq: mtf.Tensor
    wk: mtf.Tensor
    wv: mtf.Tensor
    wo: mtf.Tensor

    @property
    def heads(self) -> mtf.Dimension:
        return self.wq.shape[0]

    @property
    def io_channels(self) -> mtf.Dimension:
        return self.wq.shape[1]

    @property
    def kv_channels(self) -> mtf.Dimension:
        return self.wq.shape[2]

    def query(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., heads, kv_channels} for x {..., io_channels}."""
        return mtf.einsum([x, self.wq], reduced_dims=[self.io_channels])

    def keys_and_values(self, memory: mtf.Tensor) -> KeysAndValues:
        """Returns {..., heads, kv_channels} each, for memory {..., io_channels}."""
        return KeysAndValues(
            mtf.einsum([memory, self.wk], reduced_dims=[self.io_channels]),
            mtf.einsum([memory, self.wv], reduced_dims=[self.io_channels]),
        )

    def output(self, mixed: mtf.Tensor, output_shape: mtf.ShapeLike) -> mtf.Tensor:
        """Returns `output_shape`, which has io_channels, for mixed {..., heads, kv_channels}."""
        return mtf.einsum([mixed, self.wo], output_shape=output_shape)


class AttentionParameters(mtf.Module):
    """The variables of `AttentionParams`, each {heads, io_channels, kv_channels}."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        heads: mtf.Dimension,
        io_channels: mtf.Dimension,
        kv_channels: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__()
        self._dtypes = dtypes
        shape = [heads, io_channels, kv_channels]
        fan_in = mtf.VarianceScaling()([io_channels], [])
        # The factor kv_channels ** -0.5 of the logits.
        query_init = mtf.VarianceScaling()([io_channels, kv_channels], [])
        output_init = mtf.VarianceScaling()([heads, kv_channels], [])
        merged = [heads, kv_channels]
        projection = functools.partial(
            mtf.Variable, mesh, shape, dtype=dtypes.master, merged_dims=merged
        )
        self.wq = projection(query_init, reduced_dims=[io_channels])
        self.wk = projection(fan_in, reduced_dims=[io_channels])
        self.wv = projection(fan_in, reduced_dims=[io_channels])
        self.wo = projection(output_init, reduced_dims=merged)

    def projections(self) -> AttentionParams:
        """Returns the projections in the activation dtype."""
        dtype = self._dtypes.activation
        wq, wk, wv, wo = (mtf.cast(w, dtype) for w in (self.wq, self.wk, self.wv, self.wo))
        # As in `layers.MultiHeadAttention`.
        growth = self.wq.widths.growth([self.wq.shape[2]])
        return AttentionParams(wq if growth == 1.0 else wq * (1.0 / growth), wk, wv, wo)


Drop = Callable[[mtf.Tensor], mtf.Tensor]


def attend(
    x: mtf.Tensor,
    keys: mtf.Tensor,
    values: mtf.Tensor,
    memory_length: mtf.Dimension,
    params: AttentionParams,
    *,
    bias: mtf.Tensor | None = None,
    extra_logit: float | mtf.Tensor | None = None,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns the attention of x {..., io_channels} to {..., heads, memory_length, kv_channels}."""
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


def attention_mask_autoregressive(
    query_pos: mtf.Tensor, dtype: tf.DType = tf.float32
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: 0 at the same or earlier positions, else MASKED."""
    return _mask(mtf.less(query_pos, rename_length_to_memory_length(query_pos)), dtype)


def attention_mask_same_segment(
    query_segment: mtf.Tensor,
    memory_segment: mtf.Tensor | None = None,
    dtype: tf.DType = tf.float32,
) -> mtf.Tensor:
    """Returns {..., length, memory_length}: attend within the same packed document."""
    memory = query_segment if memory_segment is None else memory_segment
    return _mask(mtf.not_equal(query_segment, rename_length_to_memory_length(memory)), dtype)


def attention_mask_ignore_padding(inputs: mtf.Tensor, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns {..., memory_length}: attend to nonzero ids {..., length or memory_length}."""
    return _mask(mtf.equal(rename_length_to_memory_length(inputs), 0), dtype)


def _mask(is_masked: mtf.Tensor, dtype: tf.DType) -> mtf.Tensor:
    zero = mtf.constant(is_masked.mesh, 0.0, dtype=dtype)
    return mtf.where(is_masked, MASKED, zero, output_shape=is_masked.shape)


def multihead_attention(
    query_antecedent: mtf.Tensor,
    memory_antecedent: mtf.Tensor | None,
    mask: mtf.Tensor | None,
    params: AttentionParams,
    *,
    drop: Drop | None = None,
) -> mtf.Tensor:
    """Returns {..., length, io_channels}: multi-head attention; Vaswani et al. 2017, section 3.2.2.

    Without a memory it is self-attention. The mask is added to the logits.
    """
    memory = memory_antecedent
    if memory is None:
        memory = rename_length_to_memory_length(query_antecedent)
    memory_length = memory.shape.get_dim_by_name("memory_length")
    keys, values = params.keys_and_values(memory)
    return attend(query_antecedent, keys, values, memory_length, params, bias=mask, drop=drop)


def multihead_self_attention_incremental(
    query_antecedent: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    params: AttentionParams,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the causal attention of one position, and the new cache.

    As in the original, keys and values are added to the cache, which must be zero there.
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
    """Adds keys and values of x, times `share` {memory_length}, to a cache."""
    k, v = (
        mtf.multiply(entry, share, output_shape=prev_k.shape) for entry in params.keys_and_values(x)
    )
    return prev_k + k, prev_v + v


def multihead_encdec_attention_incremental(
    query_antecedent: mtf.Tensor,
    wq: mtf.Tensor,
    wo: mtf.Tensor,
    k: mtf.Tensor,
    v: mtf.Tensor,
    mask: mtf.Tensor | None,
) -> mtf.Tensor:
    """Returns the attention {batch..., io_channels} of one position to keys and values.

    Those are {batch..., heads, memory_length, kv_channels}, shared by the query's beams. The mask
    {batch..., memory_length} is added to the logits.
    """
    params = AttentionParams(wq, wq, wq, wo)
    memory_length = k.shape.get_dim_by_name("memory_length")
    return attend(query_antecedent, k, v, memory_length, params, bias=mask)


class ProjectedAttention(Sublayer):
    """Causal attention with its own kind of cache; not for prefix language models.

    Args:
      incremental: the attention of a step, called as `incremental(x, prev_k, prev_v, step_num,
        params=..., condition=...)`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        incremental: Callable[..., tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]],
        *,
        num_heads: int,
        d_kv: int,
    ) -> None:
        super().__init__()
        self._mesh, self._dtypes, self._incremental = mesh, dtypes, incremental
        heads, kv = mtf.Dimension("heads", num_heads), mtf.Dimension("d_kv", d_kv)
        self.parameters = AttentionParameters(mesh, heads, d_model, kv, dtypes)

    def _cache_dimension(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        return memory_length

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> KeysAndValues:
        heads, _, kv = self.parameters.wq.shape
        shape = [*batch, heads, self._cache_dimension(memory_length), kv]
        return KeysAndValues.zeros(self._mesh, shape, self._dtypes.activation)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        params, progress = self.parameters.projections(), call.progress
        y, *cache = self._incremental(
            x, *state, progress.step_position(), params=params, condition=progress.is_after_prompt()
        )
        return y, KeysAndValues(*cache)
