"""Attention with queries, keys and values from mixtures of experts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import check_choice
from mtfrun.layers import (
    AttentionBias,
    AttentionHeads,
    Call,
    Dropout,
    attention_logits,
    extend_cache,
    heads_before_positions,
    mix_values,
    rename_length_to_memory_length,
)
from mtfrun.layers.attention.heads import HeadProjections
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.mixture import Mixture
from mtfrun.models.moe.moe_1d import MoE1D
from mtfrun.models.transformer.attention import (
    RelativeBiasClass,
    encoder_memory,
    with_relative_bias,
)
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

# Vectors {batch..., heads..., length, d_kv} by the name of their projection.
Vectors = dict[str, mtf.Tensor]
# Applies a mixture to whole sequences, a prefill or a step.
RunMixture = Callable[[Mixture], mtf.Tensor]


@dataclasses.dataclass(frozen=True)
class ExpertProjections:
    """The attention projections that experts compute; all others are linear.

    Attributes:
      by_experts: some of "query" and "key_value", or of "query", "key" and "value"; Mesh
        TensorFlow's "qkv" is ["query", "key_value"]. One mixture has an output for each.
      shared_kv: whether keys and values are one vector, "key_value".
      mixture: the mixture's class, called as `mixture(mesh, d_model, dtypes, experts=...)`.
      experts: its experts' class, called as
        `experts(mesh, [experts_dim], d_model, dtypes, output_dims=...)`.
    """

    by_experts: Sequence[str] = ("query", "key_value")
    shared_kv: bool = True
    mixture: Callable[..., Mixture] = MoE1D
    experts: Callable[..., Experts] = Experts

    def __post_init__(self) -> None:
        for name in self.by_experts:
            check_choice("ExpertProjections.by_experts", name, self.names)
        if not self.by_experts:
            raise InputError(
                "ExpertProjections.by_experts is empty: use transformer.SelfAttention instead"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The input projections, the query's first."""
        return ("query", "key_value") if self.shared_kv else ("query", "key", "value")


class ExpertsAttention(mtf.Module):
    """Attention with projections by experts; Fedus et al. 2021, arXiv:2101.03961, appendix A.

    Logits are always divided by sqrt(d_kv). Outputs of experts have no dimension of heads, so that
    a layout may split heads and the experts' hidden units over one axis. "output" is {heads, d_kv,
    d_model}; "linear" has the projections without experts, {d_model, heads, d_kv}.

    Args:
      to_itself: whether one mixture has all projections; else "memory_mixture" has the memory's.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        heads: AttentionHeads,
        projections: ExpertProjections,
        dropout_rate: float,
        *,
        to_itself: bool,
    ) -> None:
        super().__init__()
        unsupported = (heads.norm, heads.projection_limit)
        if heads.use_bias or heads.use_output_bias or unsupported != (None, None):
            raise InputError(
                "attention by experts does not support AttentionHeads.use_bias, use_output_bias, "
                "norm and projection_limit: leave them out"
            )
        if heads.shared_kv:
            raise InputError(
                "attention by experts reads ExpertProjections.shared_kv, not AttentionHeads'"
            )
        heads = dataclasses.replace(heads, scaled_logits=heads.scaled_logits or True)
        self._mesh, self._d_model, self._dtypes = mesh, d_model, dtypes
        self._heads, self._d_kv, self._projections = heads, heads.size_dim, projections
        self._make = HeadProjections(mesh, d_model, heads, dtypes)
        names = projections.names
        self._query_names, self._memory_names = (
            (names, names) if to_itself else (names[:1], names[1:])
        )
        self.mixture = self._make_mixture(self._query_names)
        self.memory_mixture = None if to_itself else self._make_mixture(self._memory_names)
        self.linear = {
            name: self._make.kernel([d_model], self._inner(name))
            for name in names
            if name not in projections.by_experts
        }
        self.output = self._make.output_kernel()
        self.dropout = Dropout(dropout_rate)

    def project(self, x: mtf.Tensor, run: RunMixture, *, is_memory: bool = False) -> Vectors:
        """Projects x {batch..., length, d_model}: the query, in self-attention all vectors.

        `is_memory` projects the keys and values of another sequence.
        """
        names = self._memory_names if is_memory else self._query_names
        mixture = self.memory_mixture if is_memory else self.mixture
        vectors = {
            name: self._make.project(x, self.linear[name], None, self._inner(name)[:-1], None)
            for name in names
            if name in self.linear
        }
        if mixture is None:
            return vectors
        by_experts = [name for name in names if name not in vectors]
        sizes = [mtf.Shape(self._inner(name)).size for name in by_experts]
        outputs = mtf.split(run(mixture), mixture.experts.output_dim, sizes)
        for name, output in zip(by_experts, outputs, strict=True):
            with_heads = mtf.replace_dimensions(output, output.shape[-1], self._inner(name))
            shape = heads_before_positions(x.shape - self._d_model, self._inner(name)[:-1])
            vectors[name] = mtf.transpose(with_heads, [*shape, self._d_kv])
        return vectors

    def attend(
        self, query: mtf.Tensor, memory: Vectors, bias: AttentionBias, call: Call
    ) -> mtf.Tensor:
        """Returns {batch..., length, d_model}."""
        names = self._projections.names
        keys, values = memory[names[1]], memory[names[-1]]
        memory_length = keys.shape.get_dim_by_name("memory_length")

        def drop(weights: mtf.Tensor) -> mtf.Tensor:
            if call.recorder is not None:
                to_itself = self._query_names == self._memory_names
                call.recorder.add_attention(self, weights, to_itself=to_itself)
            return self.dropout(weights, call)

        mixed = mix_values(
            attention_logits(
                query * self._heads.logits_scale(self.output.widths.growth([self._d_kv])),
                keys,
                memory_length=memory_length,
                d_kv=self._d_kv,
                cap=self._heads.logits_cap,
            ),
            values,
            memory_length=memory_length,
            output_shape=query.shape,
            bias=bias.map(self._heads.group).value(query.dtype),
            extra_logit=self._heads.extra_logit,
            drop=drop,
        )
        shape = query.shape - mtf.Shape(self._inner("query")) + self._d_model
        return self._make.output(mixed, self.output, None, shape, None)

    def empty_cache(self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension) -> Vectors:
        shape = [*batch, *self._heads.memory_dims, memory_length, self._d_kv]
        zeros = mtf.zeros(self._mesh, shape, self._dtypes.activation)
        return dict.fromkeys(self._projections.names[1:], zeros)

    def _inner(self, name: str) -> list[mtf.Dimension]:
        heads = self._heads.query_dims if name == "query" else self._heads.memory_dims
        return [*heads, self._d_kv]

    def _make_mixture(self, names: Sequence[str]) -> Mixture | None:
        outputs = [
            mtf.Dimension(name, mtf.Shape(self._inner(name)).size)
            for name in names
            if name in self._projections.by_experts
        ]
        if not outputs:
            return None
        experts = functools.partial(self._projections.experts, output_dims=outputs)
        return self._projections.mixture(self._mesh, self._d_model, self._dtypes, experts=experts)


class ExpertsSelfAttention(Sublayer):
    """Self-attention with queries, keys and values from a mixture of experts.

    Each expert has a hidden layer and an output per projection; see `ExpertProjections`. Except in
    decoding, capacity may drop tokens: their queries, keys and values are 0.

    Args:
      heads: heads without biases and norms.
      relative_bias: see `SelfAttention`.
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
            mesh, d_model, dtypes, heads, projections, dropout_rate, to_itself=True
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
        position = call.progress.step_position()
        vectors = self.attention.project(x, lambda mixture: mixture.step(x, (), call)[0])
        query = vectors.pop("query")
        cache = extend_cache(state, vectors, position, call.progress.is_after_prompt())
        return self.attention.attend(query, cache, self._bias(x, call), call), cache

    def prefill(
        self, x: mtf.Tensor, state: Vectors, call: SequenceCall
    ) -> tuple[mtf.Tensor, Vectors]:
        return self._over_sequences(x, lambda mixture: mixture.prefill(x, (), call)[0], call)

    def _over_sequences(
        self, x: mtf.Tensor, run: RunMixture, call: SequenceCall
    ) -> tuple[mtf.Tensor, Vectors]:
        vectors = self.attention.project(x, run)
        query = vectors.pop("query")
        memory = tf.nest.map_structure(rename_length_to_memory_length, vectors)
        return self.attention.attend(query, memory, self._bias(x, call), call), memory

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> AttentionBias:
        if self.relative_bias is not None:
            call = with_relative_bias(self.relative_bias, x, call)
        return call.self_attention_bias


class ExpertsEncoderDecoderAttention(Sublayer):
    """Attention to an encoder's output with projections by experts.

    Queries and memory have separate mixtures; see `ExpertsSelfAttention`.
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
            mesh, d_model, dtypes, heads, projections, dropout_rate, to_itself=False
        )

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self._attend(x, lambda mixture: mixture(x, call), self._memory(call), call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Vectors:
        return self._memory(call)

    def can_step_in_blocks(self) -> bool:
        return True

    def step(self, x: mtf.Tensor, state: Vectors, call: SequenceCall) -> tuple[mtf.Tensor, Vectors]:
        return self._attend(x, lambda mixture: mixture.step(x, (), call)[0], state, call), state

    def prefill(
        self, x: mtf.Tensor, state: Vectors, call: SequenceCall
    ) -> tuple[mtf.Tensor, Vectors]:
        return self._attend(x, lambda mixture: mixture.prefill(x, (), call)[0], state, call), state

    def _memory(self, call: SequenceCall) -> Vectors:
        encoder = encoder_memory(call)
        x, encoder_call = encoder.output, dataclasses.replace(call, nonpadding=encoder.nonpadding)
        vectors = self.attention.project(
            x, lambda mixture: mixture(x, encoder_call), is_memory=True
        )
        memory: Vectors = tf.nest.map_structure(rename_length_to_memory_length, vectors)
        return memory

    def _attend(
        self, x: mtf.Tensor, run: RunMixture, memory: Vectors, call: SequenceCall
    ) -> mtf.Tensor:
        query, bias = self.attention.project(x, run)["query"], encoder_memory(call).bias
        return self.attention.attend(query, memory, bias, call)
