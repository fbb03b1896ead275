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
from mtfrun.layers import MASKED, KeysAndValues, extend_cache
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
        check_range("SpatialBlockAttention.block_length", block_length, COUNT)
        incremental = self._attend_to_cache
        super().__init__(mesh, d_model, dtypes, incremental, num_heads=num_heads, d_kv=d_kv)
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

    def _attend_to_cache(
        self,
        x: mtf.Tensor,
        prev_k: mtf.Tensor,
        prev_v: mtf.Tensor,
        step_num: mtf.Tensor,
        params: AttentionParams,
        condition: mtf.Tensor | None,
    ) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        cache, entries = KeysAndValues(prev_k, prev_v), params.keys_and_values(x)
        k, v = extend_cache(cache, entries, step_num, condition)
        memory_length = k.shape.get_dim_by_name("memory_length")
        memory = mtf.range(x.mesh, memory_length)
        first = (step_num // self._block_length - 1) * self._block_length
        is_masked = mtf.logical_or(mtf.less(memory, first), mtf.greater(memory, step_num))
        mask = mtf.to_float(is_masked) * MASKED
        is_after_zeros = mtf.to_float(mtf.greater_equal(step_num, self._block_length))
        zeros = is_after_zeros * MASKED + float(np.log(self._block_length))
        return attend(x, k, v, memory_length, params, bias=mask, extra_logit=zeros), k, v


def local_self_attention_spatial_blocks(
    query_antecedent: mtf.Tensor, params: AttentionParams, mask_right: bool = False
) -> mtf.Tensor:
    """Returns self-attention of each block to itself and its neighbours.

    As in the original, the softmax includes zeros beyond the first and last block.

    Args:
      query_antecedent: {..., num_w_blocks, w, io_channels}.
      mask_right: whether attention is causal, to the block and its predecessor; otherwise to the
        block and both neighbours.
    """
    blocks, width = query_antecedent.shape.dims[-3:-1]
    k, v, (memory_length,) = _neighbours(query_antecedent, params, {blocks: width}, mask_right)
    mask = None
    if mask_right:
        memory_width = mtf.Dimension(memory_length.name, width.size)
        mask = attention_bias_local_block(query_antecedent.mesh, width, memory_width)
    return attend(query_antecedent, k, v, memory_length, params, bias=mask)


def local_2d_self_attention_spatial_blocks(
    query_antecedent: mtf.Tensor,
    params: AttentionParams,
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
    # Along rows, then columns, so that corners are included.
    sides = {h_blocks: height, w_blocks: width}
    k, v, (rows, columns) = _neighbours(query_antecedent, params, sides, mask_right)
    if sum_logits_over_rows:
        if mask_right:
            raise InputError("sum_logits_over_rows=True leaves no rows that mask_right could mask")
        q = params.query(query_antecedent)
        logits = mtf.einsum([q, k], output_shape=[*(q.shape - params.kv_channels), columns])
        weights = mtf.cast(mtf.softmax(mtf.to_float(logits), columns), v.dtype)
        mixed = mtf.einsum([weights, v], output_shape=q.shape)
        return params.output(mixed, query_antecedent.shape)
    memory = mtf.Dimension("memory_positions", rows.size * columns.size)
    mask = None
    if mask_right:
        row, column = np.ogrid[: height.size, : width.size]
        memory_row, memory_column = np.ogrid[-height.size : height.size, -width.size : width.size]
        # The numbers of positions in reading order.
        query_number = row * columns.size + column
        memory_number = (memory_row * columns.size + memory_column).reshape(-1)
        is_before = memory_number <= query_number[..., np.newaxis]
        biases = np.where(is_before, 0.0, MASKED)
        mask = mtf.constant(query_antecedent.mesh, biases, [height, width, memory])
    k, v = (mtf.replace_dimensions(y, [rows, columns], memory) for y in (k, v))
    return attend(query_antecedent, k, v, memory, params, bias=mask)


def attention_bias_local_block(
    mesh: mtf.Mesh,
    block_length: mtf.Dimension,
    memory_length: mtf.Dimension,
    dtype: tf.DType = tf.float32,
) -> mtf.Tensor:
    """Returns the causal mask {block_length, 2 * memory_length} of a block and its predecessor."""
    size = memory_length.size
    query, memory = np.ogrid[: block_length.size, -size:size]
    both_blocks = mtf.Dimension(memory_length.name, 2 * size)
    mask = np.where(memory <= query, 0.0, MASKED)
    return mtf.constant(mesh, mask, [block_length, both_blocks], dtype)


def _neighbours(
    x: mtf.Tensor,
    params: AttentionParams,
    sides: dict[mtf.Dimension, mtf.Dimension],
    mask_right: bool,
) -> tuple[mtf.Tensor, mtf.Tensor, list[mtf.Dimension]]:
    """Returns keys and values of blocks and their predecessors, and the memory's dimensions.

    Unless `mask_right`, also of the next blocks. sides: the positions of a block, by blocks.
    """
    exchange = mtf.left_halo_exchange if mask_right else mtf.halo_exchange
    for dim in sides.values():
        x = mtf.rename_dimension(x, dim.name, f"memory_{dim.name}")
    k, v = params.keys_and_values(x)
    for blocks, dim in sides.items():
        memory = mtf.Dimension(f"memory_{dim.name}", dim.size)
        k, v = (exchange(y, blocks, memory, dim.size) for y in (k, v))
    return k, v, [k.shape.get_dim_by_name(f"memory_{dim.name}") for dim in sides.values()]
