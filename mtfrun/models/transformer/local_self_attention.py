"""Self-attention to the nearest positions only, with a ring cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import (
    MASKED,
    AttentionBias,
    AttentionHeads,
    AttentionMemory,
    RotaryPositions,
    TensorBias,
    WindowMask,
)
from mtfrun.models.transformer.attention import RelativeBiasClass, SelfAttention
from mtfrun.models.transformer.sublayer import SequenceCall

# Of fewer positions, the products of a block would cost less than starting them.
_SMALLEST_BLOCK = 128

# The slots of a ring cache: position i is in slot i % size, in place of an older one.
_WINDOW = "window_length"


class LocalSelfAttention(SelfAttention):
    """Self-attention to positions less than `window` away; Luong et al. 2015, arXiv:1508.04025.

    Longer sequences are computed in blocks of at least 128 positions; a block sees the block before
    it and, where later positions are not masked, the block after it. Steps cache the last `window`
    positions in a ring; steps in blocks, which may return to an earlier position, cache all.

    Args:
      window: the number of positions that a causal query sees, its position included.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: int = 128,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool | RotaryPositions = False,
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            rotary=rotary,
            relative_bias=relative_bias,
            dropout_rate=dropout_rate,
            block_length=max(window, _SMALLEST_BLOCK),
        )
        check_range("window", window, COUNT)
        self._window = window

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> AttentionMemory:
        if call.progress.in_blocks:
            return self.attention.empty_cache(batch, memory_length)
        slots = ring_dimension(min(self._window, memory_length.size))
        return self.attention.empty_cache(batch, slots)

    def can_step_in_blocks(self) -> bool:
        return type(self).step is LocalSelfAttention.step

    def step(
        self, x: mtf.Tensor, state: AttentionMemory, call: SequenceCall
    ) -> tuple[mtf.Tensor, AttentionMemory]:
        if call.progress.in_blocks:
            return super().step(x, state, call)
        position = call.progress.step_position()
        entries = self.attention.keys_and_values(x, position)
        ring, window = write_to_ring(state, entries, position, call.progress.is_after_prompt())
        bias = self._ring_bias(window, position, call)
        return self.attention(x, ring, window, bias, call, position=position), ring

    def prefill(
        self, x: mtf.Tensor, state: AttentionMemory, call: SequenceCall
    ) -> tuple[mtf.Tensor, AttentionMemory]:
        y, memory = super().prefill(x, state, call)
        if call.progress.in_blocks:
            return y, memory
        length, shape = memory.keys.shape.get_dim_by_name("memory_length"), state.keys.shape
        last = call.progress.prefill_lengths() - 1
        positions = ring_positions(shape.get_dim_by_name(_WINDOW), last)
        return y, memory.map(lambda x: mtf.gather(x, positions, length, output_shape=shape))

    def _ring_bias(
        self, window: mtf.Dimension, position: mtf.Tensor, call: SequenceCall
    ) -> AttentionBias:
        """Returns the bias {window_length}; the call's bias is for the positions 0, 1, ..."""
        positions = ring_positions(window, position)
        bias = mtf.to_float(mtf.less(positions, 0)) * MASKED
        mask = call.self_attention_bias.value()
        if mask is not None:
            memory_length = mask.shape.get_dim_by_name("memory_length")
            shape = [*(mask.shape - memory_length), window]
            mask = mtf.gather(mask, positions, memory_length, output_shape=shape)
            bias = mask + mtf.cast(bias, mask.dtype)
        if self.relative_bias is not None:
            logits = self.relative_bias(position, positions, call, bidirectional=call.bidirectional)
            bias = logits + mtf.to_float(bias)
        return AttentionBias.of(TensorBias(bias))

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> AttentionBias:
        positions = call.positions(x)
        memory_length = mtf.Dimension("memory_length", positions.shape.size)
        if call.progress.position is not None:
            memory_length = call.self_attention_bias.dimension("memory_length")
        near = WindowMask(positions, mtf.range(x.mesh, memory_length), self._window)
        return super()._bias(x, call).plus(near)


def ring_dimension(size: int) -> mtf.Dimension:
    """Returns the dimension of the slots of a ring."""
    return mtf.Dimension(_WINDOW, size)


def ring_positions(window: mtf.Dimension, position: mtf.Tensor) -> mtf.Tensor:
    """Returns the position in every slot after `position` was written; negative if empty."""
    slots = mtf.range(position.mesh, window)
    age = mtf.mod(mtf.sub(position, slots, output_shape=[*position.shape, window]), window.size)
    return position - age


def write_to_ring(
    ring: Any, entries: Any, position: mtf.Tensor, condition: mtf.Tensor | None = None
) -> tuple[Any, mtf.Dimension]:
    """Returns the ring with the entries of a position, and the dimension of its slots.

    `ring`: nested {batch..., window_length, ...}; `entries`: as nested, {batch..., ...}. Rows where
    `condition` {batch...} does not hold do not change.
    """
    window = tf.nest.flatten(ring)[0].shape.get_dim_by_name(_WINDOW)
    slot = position % window.size
    written = tf.nest.map_structure(
        lambda memory, entry: mtf.write_position(memory, entry, window, slot, condition),
        *(ring, entries),
    )
    return written, window
