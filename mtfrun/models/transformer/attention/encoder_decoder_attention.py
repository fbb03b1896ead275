"""Attention of a decoder to an encoder's output as a sublayer."""

from __future__ import annotations

from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import (
    AttentionHeads,
    AttentionMemory,
    MultiHeadAttention,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.sublayer import EncoderMemory, SequenceCall, Sublayer


class EncoderDecoderAttention(Sublayer):
    """Attention to the encoder's output; Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        dropout_rate: float = 0.0,
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            mesh, d_model, dtypes, heads=heads, dropout_rate=dropout_rate, block_length=block_length
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        encoder = encoder_memory(call)
        return self.attention.over_sequences(x, encoder.output, encoder.bias, call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> AttentionMemory:
        """Returns the keys and values of the encoder's output, without a beam if that has none.

        The keys are stored with `memory_length` last: XLA on a CPU multiplies the queries of four
        beams by them in 0.6 of the time (measured on one core, keys of 64 by 64).
        """
        memory = rename_length_to_memory_length(encoder_memory(call).output)
        cache = self.attention.keys_and_values(memory)
        memory_length = cache.keys.shape.get_dim_by_name("memory_length")
        shape = [*(cache.keys.shape - memory_length), memory_length]
        return cache._replace(keys=mtf.transpose(cache.keys, shape))

    def step(
        self, x: mtf.Tensor, state: AttentionMemory, call: SequenceCall
    ) -> tuple[mtf.Tensor, AttentionMemory]:
        """Returns the output for one position, or for whole sequences."""
        memory_length = state.keys.shape.get_dim_by_name("memory_length")
        return self.attention(x, state, memory_length, encoder_memory(call).bias, call), state

    def can_step_in_blocks(self) -> bool:
        return True

    def can_prefill(self, call: SequenceCall) -> bool:
        return True


def encoder_memory(call: SequenceCall) -> EncoderMemory:
    """Returns the encoder's output and its bias; an InputError if the call has none."""
    if call.encoder is None:
        raise InputError(
            "EncoderDecoderAttention needs an encoder's output: use it in the decoder of an "
            "EncoderDecoder"
        )
    return call.encoder
