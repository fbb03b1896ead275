"""Self-attention as a sublayer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from mtfrun import mtf
from mtfrun.layers import (
    AttentionBias,
    AttentionHeads,
    BiasTerm,
    KeysAndValues,
    LinearDistanceBias,
    MultiHeadAttention,
    RelativePositionBias,
    RotaryPositions,
    TensorBias,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

RelativeBias = RelativePositionBias | LinearDistanceBias

# Made as `relative_bias_class(mesh, dtypes)`.
RelativeBiasClass = Callable[..., RelativeBias]


class SelfAttention(Sublayer):
    """Every position attends to those that the call's `self_attention_bias` does not mask.

    Args:
      relative_bias: a class, called as `relative_bias(mesh, dtypes)`, for logits by distance of
        this layer alone; a `Stack` can have one for all layers.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool | RotaryPositions = False,
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            rotary=rotary,
            dropout_rate=dropout_rate,
            block_length=block_length,
        )
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self.attention.over_sequences(x, x, self._bias(x, call), call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> KeysAndValues:
        return self.attention.empty_cache(batch, memory_length)

    def can_step_in_blocks(self) -> bool:
        """Returns whether this is the class's `step`: what a subclass caches may be overwritten."""
        return type(self).step is SelfAttention.step

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output and the cache with the position; the bias must mask later ones."""
        position = call.progress.step_position()
        cache, memory_length = self.attention.extend_cache(
            state, x, position, call.progress.is_after_prompt()
        )
        bias = self._bias(x, call)
        return self.attention(x, cache, memory_length, bias, call, position=position), cache

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        return self(x, call), self.attention.keys_and_values(rename_length_to_memory_length(x))

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> AttentionBias:
        if self.relative_bias is not None:
            call = with_relative_bias(self.relative_bias, x, call)
        return call.self_attention_bias


def with_relative_bias(
    relative_bias: RelativeBias, x: mtf.Tensor, call: SequenceCall
) -> SequenceCall:
    """Returns the call with logits by distance added to its self-attention bias."""
    bias = call.self_attention_bias
    positions = call.positions(x)
    if call.progress.position is None:
        memory_length = mtf.Dimension("memory_length", positions.shape.size)
        term: BiasTerm = relative_bias.term(
            positions, mtf.range(x.mesh, memory_length), bidirectional=call.bidirectional
        )
        return dataclasses.replace(call, self_attention_bias=bias.plus(term))
    # The logits of one position are few: computed once for all layers.
    memory_length = bias.dimension("memory_length")
    logits = relative_bias(
        positions, mtf.range(x.mesh, memory_length), call, bidirectional=call.bidirectional
    )
    mask = bias.value()
    whole = logits if mask is None else logits + mtf.to_float(mask)
    return dataclasses.replace(call, self_attention_bias=AttentionBias.of(TensorBias(whole)))
