"""Self-attention, and attention of a decoder to an encoder's output, as sublayers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import (
    AttentionBias,
    AttentionHeads,
    AttentionMemory,
    DistanceBias,
    MultiHeadAttention,
    RotaryPositions,
    TensorBias,
    extend_cache,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.sublayer import EncoderMemory, SequenceCall, Sublayer

# Made as `relative_bias_class(mesh, dtypes)`.
RelativeBiasClass = Callable[..., DistanceBias]


class Attention(Protocol):
    """Attention to the vectors of a sequence, whole or in a cache; see `MultiHeadAttention`."""

    def over_sequences(
        self, x: mtf.Tensor, memory: mtf.Tensor, bias: AttentionBias, call: SequenceCall
    ) -> mtf.Tensor:
        """Returns the attention of x {batch..., length, d_model} to vectors of the same shape."""

    def keys_and_values(self, memory: mtf.Tensor, position: mtf.Tensor | None = None) -> Any:
        """Returns the cache of {batch..., memory_length, d_model}: nested tensors.

        Or, with a `position`, its entries for {batch..., d_model}; see `layers.extend_cache`.
        """

    def empty_cache(self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension) -> Any:
        """Returns a cache without positions."""

    def __call__(
        self,
        x: mtf.Tensor,
        memory: Any,
        memory_length: mtf.Dimension,
        bias: AttentionBias,
        call: SequenceCall,
        *,
        position: mtf.Tensor | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of x {batch..., d_model} at a position to a cache."""


class CachedSelfAttention(Sublayer):
    """Self-attention of any kind, with a cache of the positions before that steps extend.

    Args:
      relative_bias: see `SelfAttention`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        attention: Attention,
        relative_bias: RelativeBiasClass | None,
        dtypes: mtf.DTypePolicy,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self.attention.over_sequences(x, x, self._bias(x, call), call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        return self.attention.empty_cache(batch, memory_length)

    def can_step_in_blocks(self) -> bool:
        """Returns whether `step` is not overridden: a subclass may overwrite cached positions."""
        return type(self).step is CachedSelfAttention.step

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        position = call.progress.step_position()
        entries = self.attention.keys_and_values(x, position)
        cache = extend_cache(state, entries, position, call.progress.is_after_prompt())
        memory_length = tf.nest.flatten(cache)[0].shape.get_dim_by_name("memory_length")
        bias = self._bias(x, call)
        return self.attention(x, cache, memory_length, bias, call, position=position), cache

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self(x, call), self.attention.keys_and_values(rename_length_to_memory_length(x))

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> AttentionBias:
        if self.relative_bias is not None:
            call = with_relative_bias(self.relative_bias, x, call)
        return call.self_attention_bias


class SelfAttention(CachedSelfAttention):
    """Every position attends to those that the call's `self_attention_bias` does not mask.

    Args:
      relative_bias: a class, called as `relative_bias(mesh, dtypes)`, for logits by distance of
        this layer alone; a `Stack` can have one for all layers.
    """

    attention: MultiHeadAttention

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
        attention = MultiHeadAttention(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            rotary=rotary,
            dropout_rate=dropout_rate,
            block_length=block_length,
        )
        super().__init__(mesh, attention, relative_bias, dtypes)

    @property
    def depends_on_padding(self) -> bool:
        return self.reads_prompts_at_once

    @property
    def reads_prompts_at_once(self) -> bool:
        rotary = self.attention.rotary
        return rotary is not None and rotary.depends_on_length

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        if not self.reads_prompts_at_once:
            return super().prefill(x, state, call)
        # The length of each prompt counts; the first step reads its last id.
        length, lengths = x.shape.get_dim_by_name("length"), call.progress.prefill_lengths()
        index = mtf.range(x.mesh, length)
        is_read = mtf.less(index, lengths, output_shape=[*lengths.shape, length])
        position = mtf.where(is_read, index, lengths, output_shape=is_read.shape)
        y = self.attention.over_sequences(x, x, self._bias(x, call), call, position=position)
        memory, position = map(rename_length_to_memory_length, (x, position))
        return y, self.attention.keys_and_values(memory, position)


class CachedEncoderDecoderAttention(Sublayer):
    """Attention of any kind to the encoder's output, which steps cache."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        encoder = encoder_memory(call)
        return self.attention.over_sequences(x, encoder.output, encoder.bias, call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        """Returns the cache of the encoder's output, without a beam if that lacks it."""
        memory = rename_length_to_memory_length(encoder_memory(call).output)
        return self.attention.keys_and_values(memory)

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        memory_length = tf.nest.flatten(state)[0].shape.get_dim_by_name("memory_length")
        return self.attention(x, state, memory_length, encoder_memory(call).bias, call), state

    def can_step_in_blocks(self) -> bool:
        return True

    def can_prefill(self, call: SequenceCall) -> bool:
        return True


class EncoderDecoderAttention(CachedEncoderDecoderAttention):
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
        attention = MultiHeadAttention(
            mesh, d_model, dtypes, heads=heads, dropout_rate=dropout_rate, block_length=block_length
        )
        super().__init__(attention)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> AttentionMemory:
        """Returns the cache with `memory_length` last in the keys.

        XLA on a CPU multiplies the queries of four beams by them in 0.6 of the time (measured on
        one core, keys of 64 by 64).
        """
        cache: AttentionMemory = super().initial_state(batch, memory_length, call)
        memory_length = cache.keys.shape.get_dim_by_name("memory_length")
        shape = [*(cache.keys.shape - memory_length), memory_length]
        return cache._replace(keys=mtf.transpose(cache.keys, shape))


def encoder_memory(call: SequenceCall) -> EncoderMemory:
    """Returns the encoder's output and its bias; an InputError if the call has no encoder."""
    if call.encoder is None:
        raise InputError("EncoderDecoderAttention needs an encoder's output: use it in a decoder")
    return call.encoder


def with_relative_bias(
    relative_bias: DistanceBias, x: mtf.Tensor, call: SequenceCall
) -> SequenceCall:
    """Returns the call with logits by distance added to its self-attention bias."""
    bias = call.self_attention_bias
    positions = call.positions(x)
    if call.progress.position is None:
        memory_length = mtf.Dimension("memory_length", positions.shape.size)
        term = relative_bias.term(
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
