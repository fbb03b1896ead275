"""Multi-head latent attention, with keys and values from a small latent vector."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, check_fields, check_range
from mtfrun.layers import (
    AttentionBias,
    AttentionDropout,
    Call,
    Dense,
    Dropout,
    KeysAndValues,
    RMSNorm,
    RotaryPositions,
    attention_logits,
    heads_before_positions,
    mix_values,
    rename_length_to_memory_length,
    rotate,
)
from mtfrun.layers.attention.dot_product import BiasedMemory, attend
from mtfrun.layers.recompute import PROJECTIONS
from mtfrun.models.transformer.attention import CachedSelfAttention, RelativeBiasClass


@dataclasses.dataclass(frozen=True)
class LatentHeads:
    """The sizes of latent attention, with the symbols of the paper.

    Attributes:
      num_heads: the number of heads, n_h.
      d_latent: the size of the latent vector of keys and values, d_c.
      d_query_latent: the size of the latent vector of queries, d'_c; None to project queries from
        the layer's input.
      d_kv: the number of unrotated entries of queries and keys, d_h.
      d_rotary: the number of rotated entries, d_h^R, which all heads of a key share.
      d_v: the size of a value.
      logits_scale: the factor of logits, by default (d_kv + d_rotary) ** -0.5.
      use_bias: whether the maps to latent vectors and to the output have biases.
      norm: the class of the latent vectors' norms, called as `norm(mesh, dim, dtypes)`.
    """

    num_heads: int = 8
    d_latent: int = 512
    d_query_latent: int | None = None
    d_kv: int = 64
    d_rotary: int = 32
    d_v: int = 64
    logits_scale: float | None = None
    use_bias: bool = False
    norm: Callable[..., Any] = RMSNorm

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_heads", "d_latent", "d_kv", "d_rotary", "d_v")
        check_fields(self, COUNT, "d_query_latent", optional=True)
        check_fields(self, POSITIVE, "logits_scale", optional=True)
        if self.d_rotary % 2:
            raise InputError(f"LatentHeads.d_rotary={self.d_rotary} must be even: pairs rotate")


class LatentAttention(mtf.Module):
    """Multi-head latent attention; DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.

    Keys and values of all heads are linear maps of a position's latent vector; keys also have a
    rotated part that all heads share. The cache has these d_latent + d_rotary values per position.
    Decoding steps apply the key map to queries, and the value map to mixed latent vectors, and
    never compute keys and values of the cache (section 2.1.2). Where the length is split over
    devices, each gathers the latent vectors of all positions.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: LatentHeads = LatentHeads(),
        rotary: RotaryPositions = RotaryPositions(),
        dropout_rate: float = 0.0,
        block_length: int | None = None,
    ) -> None:
        """Initialises query {d_model or query_latent, heads, d_kv}, key {latent, heads, d_kv}, ...

        The rotated entries of queries, and of `memory`'s outputs, come first.

        Args:
          rotary: the frequencies.
          dropout_rate: the dropout rate of attention weights.
          block_length: see `MultiHeadAttention`.
        """
        super().__init__()
        check_range("block_length", block_length, COUNT, optional=True)
        self._mesh, self._dtypes, self._block_length = mesh, dtypes, block_length
        self._heads, self._sizes = mtf.Dimension("heads", heads.num_heads), heads
        # The same names have other sizes with rotated entries included.
        self._latent = mtf.Dimension("latent", heads.d_latent)
        self._with_key = mtf.Dimension("latent", heads.d_rotary + heads.d_latent)
        self._still = mtf.Dimension("d_kv", heads.d_kv)
        self._d_kv = mtf.Dimension("d_kv", heads.d_rotary + heads.d_kv)
        self._d_v = mtf.Dimension("d_v", heads.d_v)
        self.rotary = dataclasses.replace(rotary, rotated=heads.d_rotary)
        dense = functools.partial(Dense, mesh, dtypes=dtypes, use_bias=heads.use_bias)
        self.query_latent: Dense | None = None
        self.query_norm: Any = None
        self._query_input = d_model
        if heads.d_query_latent is not None:
            self._query_input = mtf.Dimension("query_latent", heads.d_query_latent)
            self.query_latent = dense([d_model], [self._query_input])
            self.query_norm = heads.norm(mesh, self._query_input, dtypes)
        self.memory = dense([d_model], [self._with_key])
        self.memory_norm = heads.norm(mesh, self._latent, dtypes)

        def projection(x: mtf.Dimension, size: mtf.Dimension) -> mtf.Variable:
            new = [self._heads, size]
            initial = mtf.VarianceScaling()([x], new)
            return mtf.Variable(
                mesh, [x, *new], initial, dtypes.master, merged_dims=new, reduced_dims=[x]
            )

        self.query = projection(self._query_input, self._d_kv)
        self.key = projection(self._latent, self._still)
        self.value = projection(self._latent, self._d_v)
        self.output = dense([self._heads, self._d_v], [d_model])
        self.dropout = Dropout(dropout_rate)

    def over_sequences(
        self, x: mtf.Tensor, memory: mtf.Tensor, bias: AttentionBias, call: Call
    ) -> mtf.Tensor:
        """Returns the attention of x to whole sequences, in the shape of x.

        x: {batch..., length, d_model}; memory: the same, or with `memory_length`.
        """
        query = self._queries(x, None, call)
        length = query.shape.dims[-2]
        if self._block_length is not None and self._mesh.num_splits(length) > 1:
            raise mtf.LayoutError(
                f"LatentSelfAttention.block_length={self._block_length} is not supported when "
                f"{length.name} is split over devices: drop one of the two"
            )
        key, latent = (rename_length_to_memory_length(y) for y in self._split_memory(memory, None))
        memory_length = latent.shape.dims[-2]
        keys, values = (self._project(latent, kernel) for kernel in (self.key, self.value))
        key = mtf.rename_dimension(key, "latent", "d_kv")
        shared = [*(keys.shape - self._still), key.shape.dims[-1]]
        keys = mtf.concat([mtf.broadcast(key, shared), keys], "d_kv")
        weights = [*(query.shape - self._d_kv), memory_length]
        record = None
        if call.recorder is not None:
            record = functools.partial(call.recorder.add_attention, self, to_itself=memory is x)
        dropout = AttentionDropout.of(self.dropout, call, self._mesh, weights)
        biased = BiasedMemory(KeysAndValues(keys, values), bias, dropout)
        mixed = attend(query, biased, block_length=self._block_length, record=record)
        return self.output(mixed, call)

    def __call__(
        self,
        x: mtf.Tensor,
        memory: mtf.Tensor,
        memory_length: mtf.Dimension,
        bias: AttentionBias,
        call: Call,
        *,
        position: mtf.Tensor | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of x {batch..., d_model}, or of a block, to a cache."""
        dtype = self._dtypes.activation
        query = self._queries(x, position, call)
        turned, still = mtf.split(query, self._d_kv, [self._sizes.d_rotary, self._still.size])
        outer = (query.shape - self._d_kv).dims
        projected = mtf.einsum([still, mtf.cast(self.key, dtype)], [*outer, self._latent])
        turned = mtf.rename_dimension(turned, "d_kv", "latent")
        query = mtf.concat([turned, projected], "latent")
        mixed = mix_values(
            attention_logits(query, memory, memory_length=memory_length, d_kv=self._with_key),
            memory,
            memory_length=memory_length,
            output_shape=query.shape,
            bias=bias.value(dtype),
            drop=functools.partial(self.dropout, call=call),
        )
        latent = mtf.slice(mixed, self._sizes.d_rotary, self._latent.size, "latent")
        values = mtf.einsum([latent, mtf.cast(self.value, dtype)], [*outer, self._d_v])
        return self.output(values, call)

    def keys_and_values(self, memory: mtf.Tensor, position: mtf.Tensor | None = None) -> mtf.Tensor:
        """Returns the cache {..., latent}, or a position's entries: rotated key, latent vector."""
        return mtf.concat(self._split_memory(memory, position), "latent")

    def empty_cache(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension
    ) -> mtf.Tensor:
        shape = [*batch, memory_length, self._with_key]
        return mtf.zeros(self._mesh, shape, self._dtypes.activation)

    def _queries(self, x: mtf.Tensor, position: mtf.Tensor | None, call: Call) -> mtf.Tensor:
        """Returns {batch..., heads, length, d_kv}."""
        if self.query_latent is not None:
            x = self.query_norm(self.query_latent(x, call), call)
        query = self._rotate(self._project(x, self.query), position, self._d_kv)
        growth = self.query.widths.growth([self._d_kv])
        scale = self._sizes.logits_scale or (self._d_kv.size / growth) ** -0.5
        return query * (scale / growth)

    def _split_memory(
        self, memory: mtf.Tensor, position: mtf.Tensor | None
    ) -> Sequence[mtf.Tensor]:
        """Returns rotated keys and latent vectors, {..., latent}."""
        call = Call()
        sizes = [self._sizes.d_rotary, self._latent.size]
        key, latent = mtf.split(self.memory(memory, call), self._with_key, sizes)
        return self._rotate(key, position, key.shape.dims[-1]), self.memory_norm(latent, call)

    def _rotate(self, x: mtf.Tensor, position: mtf.Tensor | None, dim: mtf.Dimension) -> mtf.Tensor:
        if position is None:
            position = mtf.range(self._mesh, x.shape.dims[-2])
        return rotate(x, position, dim, self.rotary)

    def _project(self, x: mtf.Tensor, kernel: mtf.Variable) -> mtf.Tensor:
        """Returns {batch..., heads, length, size}, without a transpose."""
        reduced, heads, size = kernel.shape
        inner = [*heads_before_positions(x.shape - reduced, [heads]), size]
        weights = mtf.cast(kernel, self._dtypes.activation)
        return mtf.keep(mtf.einsum([x, weights], output_shape=inner), PROJECTIONS)


class LatentSelfAttention(CachedSelfAttention):
    """Self-attention to latent vectors, as in DeepSeek-V2 and DeepSeek-V3.

    Args:
      relative_bias: see `SelfAttention`.
    """

    attention: LatentAttention

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: LatentHeads = LatentHeads(),
        rotary: RotaryPositions = RotaryPositions(),
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
        block_length: int | None = None,
    ) -> None:
        attention = LatentAttention(
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
        return self.attention.rotary.depends_on_length
