"""Attention whose queries, keys and values mixtures of experts compute, as sublayers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.zoo.experts.expert_projections import (
    ExpertProjections,
    ExpertsAttention,
    RunMixture,
    Vectors,
)
from mtfrun.layers import (
    AttentionBias,
    AttentionHeads,
    extend_cache,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.attention.encoder_decoder_attention import encoder_memory
from mtfrun.models.transformer.attention.self_attention import RelativeBiasClass, with_relative_bias
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer


class ExpertsSelfAttention(Sublayer):
    """Self-attention whose queries, keys and values a mixture of experts computes.

    Every expert has a hidden layer, and an output for each of the projections; see
    `ExpertProjections`. Its routing, losses and metrics are the mixture's, so that capacity may
    drop tokens except in decoding: their queries, keys and values are 0.

    Args:
      heads: without biases and norms.
      relative_bias: as of `SelfAttention`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        projections: ExpertProjections = ExpertProjections(),
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = ExpertsAttention(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            projections=projections,
            to_itself=True,
            dropout_rate=dropout_rate,
        )
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self._over_sequences(x, lambda mixture: mixture(x, call), call)[0]

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Vectors:
        return self.attention.empty_cache(batch, memory_length)

    def can_step_in_blocks(self) -> bool:
        return True

    def step(self, x: mtf.Tensor, state: Vectors, call: SequenceCall) -> tuple[mtf.Tensor, Vectors]:
        """Returns the output and the cache with the position; the bias must mask later ones."""
        position = call.progress.step_position()
        vectors = self.attention.project(x, lambda mixture: mixture.step(x, (), call)[0])
        query = vectors.pop("query")
        cache = extend_cache(state, vectors, position, call.progress.is_after_prompt())
        bias = self._bias(x, call)
        return self.attention.attend(query, cache, bias, call, whole=False), cache

    def prefill(
        self, x: mtf.Tensor, state: Vectors, call: SequenceCall
    ) -> tuple[mtf.Tensor, Vectors]:
        return self._over_sequences(x, lambda mixture: mixture.prefill(x, (), call)[0], call)

    def _over_sequences(
        self, x: mtf.Tensor, run: RunMixture, call: SequenceCall
    ) -> tuple[mtf.Tensor, Vectors]:
        vectors = self.attention.project(x, run)
        query = vectors.pop("query")
        memory = {name: rename_length_to_memory_length(y) for name, y in vectors.items()}
        bias = self._bias(x, call)
        return self.attention.attend(query, memory, bias, call, whole=True), memory

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> AttentionBias:
        if self.relative_bias is not None:
            call = with_relative_bias(self.relative_bias, x, call)
        return call.self_attention_bias


class ExpertsEncoderDecoderAttention(Sublayer):
    """Attention to an encoder's output with projections by experts.

    A mixture computes the queries of the decoder's tokens, another one the keys and values of the
    encoder's; see `ExpertsSelfAttention`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        projections: ExpertProjections = ExpertProjections(),
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = ExpertsAttention(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            projections=projections,
            to_itself=False,
            dropout_rate=dropout_rate,
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self._attend(
            x, lambda mixture: mixture(x, call), self._memory(call), call, whole=True
        )

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Vectors:
        """Returns the vectors of the encoder's output, without a beam if that has none."""
        return self._memory(call)

    def step(self, x: mtf.Tensor, state: Vectors, call: SequenceCall) -> tuple[mtf.Tensor, Vectors]:
        return self._attend(x, lambda mixture: mixture.step(x, (), call)[0], state, call), state

    def can_step_in_blocks(self) -> bool:
        return True

    def prefill(
        self, x: mtf.Tensor, state: Vectors, call: SequenceCall
    ) -> tuple[mtf.Tensor, Vectors]:
        return self._attend(x, lambda mixture: mixture.prefill(x, (), call)[0], state, call), state

    def _attend(
        self,
        x: mtf.Tensor,
        run: RunMixture,
        memory: Vectors,
        call: SequenceCall,
        *,
        whole: bool = False,
    ) -> mtf.Tensor:
        query, bias = self.attention.project(x, run)["query"], encoder_memory(call).bias
        return self.attention.attend(query, memory, bias, call, whole=whole)

    def _memory(self, call: SequenceCall) -> Vectors:
        encoder = encoder_memory(call)
        x, of_encoder = encoder.output, dataclasses.replace(call, nonpadding=encoder.nonpadding)
        vectors = self.attention.project_memory(x, lambda mixture: mixture(x, of_encoder))
        return {name: rename_length_to_memory_length(y) for name, y in vectors.items()}
