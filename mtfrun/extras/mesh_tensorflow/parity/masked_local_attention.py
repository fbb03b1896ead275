"""Tensor2Tensor's local attention: blocks of positions that attend to the window before them.

New models use `transformer.LocalSelfAttention`.
"""

from __future__ import annotations

import numpy as np

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.parity.multihead_attention import (
    AttentionParams,
    ProjectedAttention,
    attend,
)
from mtfrun.layers import MASKED, KeysAndValues, dot_product_attention
from mtfrun.models.transformer import SequenceCall
from mtfrun.models.transformer.attention.local_self_attention import (
    ring_after,
    ring_dimension,
    write_to_ring,
)


def masked_local_attention_1d(
    x: mtf.Tensor,
    params: AttentionParams,
    window_size: int = 128,
    length_per_split: int | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns causal self-attention in blocks of x {..., length, io_channels}, keys and values.

    Every block attends to itself and to the `window_size` positions before it. As in the original,
    a position attends to at most as many positions as a block has, and the softmax includes the
    zeros before the start. A split length is gathered unless every device has whole blocks.

    Args:
      length_per_split: a block must divide it, by default the length. The block is its largest
        divisor that is not above max(window_size, 128). (It does not depend on the layout, which
        would change the results.)
    """
    length, io = x.shape.dims[-2:]
    batch = x.shape.dims[:-2]
    q, (k, v) = params.query(x), params.keys_and_values(x)
    q = mtf.transpose(q, k.shape)
    block_size = _largest_divisor(length_per_split or length.size, max(window_size, 128))
    num_blocks = length.size // block_size
    # Under the name of the length the blocks are split as it is, if the mesh divides them.
    is_split = num_blocks % x.mesh.num_splits(length) == 0
    blocks = mtf.Dimension(length.name if is_split else "length_blocks", num_blocks)
    block = mtf.Dimension("block_length", block_size)
    memory = mtf.Dimension("memory_length", block_size)

    def with_lookback(y: mtf.Tensor) -> mtf.Tensor:
        y = mtf.replace_dimensions(y, length, [blocks, memory])
        return mtf.left_halo_exchange(y, blocks, memory, window_size)

    memory_length = mtf.Dimension("memory_length", block_size + window_size)
    attended = dot_product_attention(
        mtf.replace_dimensions(q, length, [blocks, block]),
        with_lookback(k),
        with_lookback(v),
        memory_length=memory_length,
        d_kv=params.kv_channels,
        bias=_lookback_mask(x.mesh, block, memory_length),
    )
    attended = mtf.replace_dimensions(attended, [blocks, block], length)
    return params.output(attended, [*batch, length, io]), k, v


def _lookback_mask(
    mesh: mtf.Mesh, block: mtf.Dimension, memory_length: mtf.Dimension
) -> mtf.Tensor:
    """Returns {block_length, memory_length}: attend to fewer than a block's length of positions."""
    query = np.arange(block.size)[:, np.newaxis]
    memory = np.arange(memory_length.size)[np.newaxis, :] - (memory_length.size - block.size)
    visible = (memory <= query) & (memory > query - block.size)
    return mtf.constant(mesh, np.where(visible, 0.0, MASKED), [block, memory_length])


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


def masked_local_attention_1d_incremental(
    x: mtf.Tensor,
    prev_k: mtf.Tensor,
    prev_v: mtf.Tensor,
    step_num: mtf.Tensor,
    params: AttentionParams,
    condition: mtf.Tensor | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the attention of one position to the last ones, and the new cache.

    The cache {batch..., heads, window_length, kv_channels} is a ring, see `ring_positions`. As in
    the original there is no mask: the softmax includes entries that are not yet written, which are
    zeros. Rows without `condition` do not change.
    """
    entries = KeysAndValues(params.key(x), params.value(x))
    ring: KeysAndValues
    ring, window = write_to_ring(KeysAndValues(prev_k, prev_v), entries, step_num, condition)
    return attend(x, *ring, window, params), *ring


def _masked_local_attention_1d_by_steps(
    x: mtf.Tensor, params: AttentionParams, window_size: int
) -> tuple[mtf.Tensor, KeysAndValues]:
    """Returns the outputs of the steps at all positions, and their keys and values."""
    length = x.shape.dims[-2]
    q, (k, v) = params.query(x), params.keys_and_values(x)
    q = mtf.transpose(q, k.shape)
    memory = mtf.Dimension("memory_length", length.size)
    position = np.arange(length.size)
    distance = position[:, np.newaxis] - position
    visible = (distance >= 0) & (distance < window_size)
    # The zeros of positions that are not yet written have a logit of 0 each.
    unwritten = window_size - 1 - position
    extra_logit = np.where(unwritten > 0, np.log(np.maximum(unwritten, 1)), MASKED)
    mixed = dot_product_attention(
        q,
        *(mtf.rename_dimension(y, length.name, memory.name) for y in (k, v)),
        memory_length=memory,
        d_kv=params.kv_channels,
        bias=mtf.constant(x.mesh, np.where(visible, 0.0, MASKED), [length, memory]),
        extra_logit=mtf.constant(x.mesh, extra_logit, [length]),
    )
    return params.output(mixed, x.shape), KeysAndValues(k, v)


class MaskedLocalAttention(ProjectedAttention):
    """Causal attention in blocks; see `masked_local_attention_1d`.

    As in the original, a step of decoding attends to the last `window` positions only, not to the
    block as well. Documents of packed rows attend to each other.
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
        super().__init__(mesh, d_model, dtypes, num_heads=num_heads, d_kv=d_kv)
        self._window = window

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return masked_local_attention_1d(x, self.parameters.projections(), self._window)[0]

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        y, *cache = masked_local_attention_1d_incremental(
            x,
            *state,
            call.progress.step_position(),
            self.parameters.projections(),
            call.progress.is_after_prompt(),
        )
        return y, KeysAndValues(*cache)

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        params, length = self.parameters.projections(), x.shape.get_dim_by_name("length")
        y, memory = _masked_local_attention_1d_by_steps(x, params, self._window)
        return y, ring_after(memory, length, call.progress.prefill_lengths(), state.keys.shape)

    def _cache_dimension(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        return ring_dimension(self._window)
