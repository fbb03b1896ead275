"""Self-attention as a sublayer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from mtfrun import mtf
from mtfrun.layers import (
    AttentionHeads,
    KeysAndValues,
    MultiHeadAttention,
    RelativePositionBias,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.sequence_call import SequenceCall
from mtfrun.models.transformer.sublayer import Sublayer

# Made as `relative_bias_class(mesh, dtypes)`.
RelativeBiasClass = Callable[..., RelativePositionBias]


class SelfAttention(Sublayer):
    """Every position attends to those that the call's `self_attention_bias` does not mask."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool = False,
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        """Makes the projections; see `MultiHeadAttention`.

        `relative_bias` is a class, called as `relative_bias(mesh, dtypes)`, for logits by distance
        of this layer alone; a `Stack` can have one for all layers.
        """
        super().__init__()
        self.attention = MultiHeadAttention(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            rotary=rotary,
            dropout_rate=dropout_rate,
        )
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        return self._attend(x, call)[0]

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> KeysAndValues:
        """Returns an empty cache of keys and values."""
        return self.attention.empty_cache(batch, memory_length)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at one position and the cache with that position written.

        The bias must mask later positions.
        """
        position = call.progress.step_position()
        cache, memory_length = self.attention.extend_cache(
            state, x, position, call.progress.is_after_prompt()
        )
        bias = self._bias(x, call)
        return self.attention(x, cache, memory_length, bias, call, position=position), cache

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output for whole sequences and their keys and values."""
        return self._attend(x, call)

    def _attend(self, x: mtf.Tensor, call: SequenceCall) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output for whole sequences, and their keys and values."""
        memory = rename_length_to_memory_length(x)
        memory_length = memory.shape.get_dim_by_name("memory_length")
        keys_and_values = self.attention.keys_and_values(memory)
        bias = self._bias(x, call)
        return self.attention(x, keys_and_values, memory_length, bias, call), keys_and_values

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor | None:
        """Returns what is added to the logits of x, whole sequences or one position."""
        if self.relative_bias is not None:
            call = with_relative_bias(self.relative_bias, x, call)
        return call.self_attention_bias


def with_relative_bias(
    relative_bias: RelativePositionBias, x: mtf.Tensor, call: SequenceCall
) -> SequenceCall:
    """Returns the call with logits by distance added to its self-attention bias.

    Args:
      relative_bias: the logits.
      x: the input of the attention, whole sequences or one position.
      call: see `SequenceCall`.
    """
    mask = call.self_attention_bias
    positions = call.positions(x)
    if mask is None:
        memory_length = mtf.Dimension("memory_length", positions.shape.size)
    else:
        memory_length = mask.shape.get_dim_by_name("memory_length")
    memory_positions = mtf.range(x.mesh, memory_length)
    bias = relative_bias(positions, memory_positions, call, bidirectional=call.bidirectional)
    if mask is not None:
        bias = bias + mtf.to_float(mask)
    return dataclasses.replace(call, self_attention_bias=bias)
