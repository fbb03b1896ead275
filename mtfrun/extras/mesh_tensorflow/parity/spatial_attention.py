"""Attention of blocks of a sequence or image to themselves and neighbouring blocks.

The dimensions of blocks may be split: devices exchange whole blocks of keys and values.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.extras.mesh_tensorflow.parity.multihead_attention import (
    AttentionParams,
    ProjectedAttention,
    attend,
)
from mtfrun.layers import MASKED, KeysAndValues, extend_cache, rename_length_to_memory_length
from mtfrun.models.transformer import SequenceCall


class SpatialBlockAttention(ProjectedAttention):
    """Causal attention to a position's block and the block before it.

    As in Tensor2Tensor's image Transformer with `local1d_spatial`, the softmax of the first block
    includes a block of zeros; see `local_self_attention_spatial_blocks` with `mask_right`. Packed
    documents attend to each other.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        d_kv: int = 64,
        block_length: int = 128,
    ) -> None:
        super().__init__(mesh, d_model, dtypes, num_heads=num_heads, d_kv=d_kv)
        check_range("SpatialBlockAttention.block_length", block_length, COUNT)
        self._block_length = block_length

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        size = x.shape.get_dim_by_name("length").size
        x = mtf.pad(x, [0, -size % self._block_length], "length")
        length = x.shape.get_dim_by_name("length")
        block = mtf.Dimension("block", self._block_length)
        blocks = [mtf.Dimension("num_w_blocks", length.size // block.size), block]
        y = local_self_attention_spatial_blocks(
            mtf.replace_dimensions(x, length, blocks),
            self.parameters.projections(),
            mask_right=True,
        )
        return mtf.slice(mtf.replace_dimensions(y, blocks, length), 0, size, "length")

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        params, position = self.parameters.projections(), call.progress.step_position()
        entries = KeysAndValues(params.key(x), params.value(x))
        cache = extend_cache(state, entries, position, call.progress.is_after_prompt())
        memory_length = cache.keys.shape.get_dim_by_name("memory_length")
        memory = mtf.range(x.mesh, memory_length)
        first = (position // self._block_length - 1) * self._block_length
        is_masked = mtf.logical_or(mtf.less(memory, first), mtf.greater(memory, position))
        is_after_zeros = mtf.to_float(mtf.greater_equal(position, self._block_length))
        y = attend(
            x,
            cache.keys,
            cache.values,
            memory_length,
            params,
            bias=mtf.to_float(is_masked) * MASKED,
            extra_logit=is_after_zeros * MASKED + float(np.log(self._block_length)),
        )
        return y, cache

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        memory = rename_length_to_memory_length(x)
        return self(x, call), self.parameters.projections().keys_and_values(memory)


def local_self_attention_spatial_blocks(
    query_antecedent: mtf.Tensor,
    params: AttentionParams,
    memory_w_dim: mtf.Dimension | None = None,
    mask_right: bool = False,
) -> mtf.Tensor:
    """Returns self-attention of each block to itself and its neighbours.

    As in the original, the softmax includes zeros beyond the first and last block.

    Args:
      query_antecedent: {..., num_w_blocks, w, io_channels}.
      memory_w_dim: the memory's dimension w, by default "memory_" and its name.
      mask_right: whether attention is causal, to the block and its predecessor; otherwise to the
        block and both neighbours.
    """
    blocks, width = query_antecedent.shape.dims[-3:-1]
    memory_width = memory_w_dim or _memory_side(width)
    k, v = _keys_and_values(query_antecedent, {width: memory_width}, params)
    k, v = local_1d_halo_exchange(k, v, blocks, memory_width, mask_right)
    mask = None
    if mask_right:
        mask = attention_bias_local_block(query_antecedent.mesh, width, memory_width)
    memory_length = k.shape.get_dim_by_name(memory_width.name)
    return attend(query_antecedent, k, v, memory_length, params, bias=mask)


def local_2d_self_attention_spatial_blocks(
    query_antecedent: mtf.Tensor,
    params: AttentionParams,
    memory_h_dim: mtf.Dimension | None = None,
    memory_w_dim: mtf.Dimension | None = None,
    mask_right: bool = False,
    sum_logits_over_rows: bool = False,
) -> mtf.Tensor:
    """Returns self-attention of every block of an image to itself and its neighbours.

    Args:
      query_antecedent: {..., num_h_blocks, num_w_blocks, h, w, io_channels}.
      mask_right: whether attention is causal in reading order, to the block and its neighbours
        above and to the left; otherwise to all eight neighbours. (Raises in the original.)
      sum_logits_over_rows: whether logits and values are summed over each column, as in the
        original, before and after a softmax over columns.
    """
    h_blocks, w_blocks, height, width, _ = query_antecedent.shape.dims[-5:]
    mesh = query_antecedent.mesh
    rows = memory_h_dim or _memory_side(height)
    columns = memory_w_dim or _memory_side(width)
    k, v = _keys_and_values(query_antecedent, {height: rows, width: columns}, params)
    k, v = local_2d_halo_exchange(k, v, h_blocks, rows, w_blocks, columns, mask_right)
    memory_rows = k.shape.get_dim_by_name(rows.name)
    memory_columns = k.shape.get_dim_by_name(columns.name)
    if sum_logits_over_rows:
        if mask_right:
            raise InputError("sum_logits_over_rows=True leaves no rows that mask_right could mask")
        q = params.query(query_antecedent)
        logits = mtf.einsum([q, k], output_shape=[*(q.shape - params.kv_channels), memory_columns])
        weights = mtf.cast(mtf.softmax(mtf.to_float(logits), memory_columns), v.dtype)
        mixed = mtf.einsum([weights, v], output_shape=q.shape)
        return params.output(mixed, query_antecedent.shape)
    memory = mtf.Dimension("memory_positions", memory_rows.size * memory_columns.size)
    mask = None
    if mask_right:
        mask = attention_bias_local_2d_block(mesh, height, width, rows, columns)
        mask = mtf.replace_dimensions(mask, [memory_rows, memory_columns], memory)
    return attend(
        query_antecedent,
        mtf.replace_dimensions(k, [memory_rows, memory_columns], memory),
        mtf.replace_dimensions(v, [memory_rows, memory_columns], memory),
        memory,
        params,
        bias=mask,
    )


def local_1d_halo_exchange(
    k: mtf.Tensor,
    v: mtf.Tensor,
    num_w_blocks: mtf.Dimension | None,
    w_dim: mtf.Dimension,
    mask_right: bool,
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns keys and values with the preceding block, unless `mask_right` also the next."""
    if num_w_blocks is None:
        return k, v
    exchange = mtf.left_halo_exchange if mask_right else mtf.halo_exchange
    return (
        exchange(k, num_w_blocks, w_dim, w_dim.size),
        exchange(v, num_w_blocks, w_dim, w_dim.size),
    )


def local_2d_halo_exchange(
    k: mtf.Tensor,
    v: mtf.Tensor,
    num_h_blocks: mtf.Dimension | None,
    h_dim: mtf.Dimension,
    num_w_blocks: mtf.Dimension | None,
    w_dim: mtf.Dimension,
    mask_right: bool,
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns `local_1d_halo_exchange` along rows, then columns, so that corners are included."""
    k, v = local_1d_halo_exchange(k, v, num_h_blocks, h_dim, mask_right)
    return local_1d_halo_exchange(k, v, num_w_blocks, w_dim, mask_right)


def attention_bias_local_block(
    mesh: mtf.Mesh,
    block_length: mtf.Dimension,
    memory_length: mtf.Dimension,
    dtype: tf.DType = tf.float32,
) -> mtf.Tensor:
    """Returns the causal mask {block_length, 2 * memory_length} of a block and its predecessor."""
    size = memory_length.size
    query = np.arange(block_length.size)[:, np.newaxis]
    memory = np.arange(-size, size)[np.newaxis, :]
    both_blocks = mtf.Dimension(memory_length.name, 2 * size)
    mask = np.where(memory <= query, 0.0, MASKED)
    return mtf.constant(mesh, mask, [block_length, both_blocks], dtype)


def attention_bias_local_2d_block(
    mesh: mtf.Mesh,
    h_dim: mtf.Dimension,
    w_dim: mtf.Dimension,
    memory_h_dim: mtf.Dimension,
    memory_w_dim: mtf.Dimension,
    dtype: tf.DType = tf.float32,
) -> mtf.Tensor:
    """Returns {h, w, memory_h, memory_w}: the causal mask in reading order.

    The memory is doubled in both directions: the blocks above and to the left come first.
    """
    height, width = memory_h_dim.size, memory_w_dim.size
    row = np.arange(h_dim.size)[:, None, None, None]
    column = np.arange(w_dim.size)[None, :, None, None]
    memory_row = np.arange(-height, height)[None, None, :, None]
    memory_column = np.arange(-width, width)[None, None, None, :]
    before = (memory_row < row) | ((memory_row == row) & (memory_column <= column))
    memory_dims = [
        mtf.Dimension(memory_h_dim.name, 2 * height),
        mtf.Dimension(memory_w_dim.name, 2 * width),
    ]
    return mtf.constant(mesh, np.where(before, 0.0, MASKED), [h_dim, w_dim, *memory_dims], dtype)


def _memory_side(dim: mtf.Dimension) -> mtf.Dimension:
    return mtf.Dimension(f"memory_{dim.name}", dim.size)


def _keys_and_values(
    x: mtf.Tensor, names: dict[mtf.Dimension, mtf.Dimension], params: AttentionParams
) -> tuple[mtf.Tensor, mtf.Tensor]:
    for dim, memory_dim in names.items():
        x = mtf.rename_dimension(x, dim.name, memory_dim.name)
    return params.key(x), params.value(x)
