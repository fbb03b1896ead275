"""Multi-head attention over whole sequences and over one position, with its cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.checks import COUNT, check_range
from mtfrun.errors import InputError
from mtfrun.layers.attend import BiasedMemory, attend, attend_to_both
from mtfrun.layers.attention import (
    AttentionHeads,
    AttentionMemory,
    KeysAndValues,
    SharedKeysAndValues,
    attention_logits,
    heads_before_positions,
    mix_values,
)
from mtfrun.layers.attention_masks import AttentionBias, rename_length_to_memory_length
from mtfrun.layers.context_parallelism import QUERY_LENGTH, HeadGroups
from mtfrun.layers.dropout import AttentionDropout, Dropout
from mtfrun.layers.layer import Call
from mtfrun.layers.recompute import PROJECTIONS
from mtfrun.layers.rotary import RotaryPositions, rotate


@dataclasses.dataclass(frozen=True)
class FurtherMemory:
    """Vectors {batch..., memory_length, d_model} that queries see besides those of a sequence.

    bias: of their logits {..., heads, length, memory_length}; dropout: of their weights.
    """

    vectors: mtf.Tensor
    bias: AttentionBias
    dropout: Dropout


class MultiHeadAttention(mtf.Module):
    """Attention with trained projections; Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool | RotaryPositions = False,
        dropout_rate: float = 0.0,
        block_length: int | None = None,
    ) -> None:
        """Makes the specs of query, key, value {d_model, heads, d_kv}; output has d_model last.

        Grouped heads have {..., heads, query_heads, ...} in query and output, and one memory head
        has {d_model, d_kv} in key and value; see `AttentionHeads`. Biases have what a projection
        maps to: "query_bias" {heads, d_kv}, "output_bias" {d_model}. Norms are "query_norm" and
        "key_norm". With `shared_kv` there is "key_value" in the place of key and value.

        `heads` and `rotary` are attributes as well.

        Args:
          rotary: queries and keys are rotated by their position; True for the usual frequencies.
          dropout_rate: of the attention weights.
          block_length: longer sequences are computed in blocks of at most so many positions, with
            memory proportional to their length, see `attention_in_blocks`; None for never.
        """
        super().__init__()
        check_range("block_length", block_length, COUNT, optional=True)
        if heads.shared_kv and rotary:
            raise InputError(
                "AttentionHeads.shared_kv: rotated keys are not the values: leave out one of "
                "shared_kv and rotary"
            )
        self._block_length = block_length
        self._mesh = mesh
        self._d_model = d_model
        self._dtypes = dtypes
        self.heads = heads
        self.rotary = RotaryPositions() if rotary is True else rotary or None
        self._query_heads, self._memory_heads = heads.query_dims, heads.memory_dims
        self._d_kv = heads.size_dim
        inner, memory = [*self._query_heads, self._d_kv], [*self._memory_heads, self._d_kv]
        fan_in = mtf.VarianceScaling()([d_model], memory)
        self._logits_cap = heads.logits_cap
        # The factor d_kv ** -0.5 of the logits, where they do not have it themselves.
        scaling = [] if heads.scaled_logits else [self._d_kv]
        query_init = mtf.VarianceScaling()([d_model, *scaling], self._query_heads)
        output_init = mtf.VarianceScaling()(inner, [d_model])

        def projection(
            shape: mtf.ShapeLike,
            initializer: mtf.Initializer,
            merged: Sequence[mtf.Dimension],
            reduced: Sequence[mtf.Dimension],
        ) -> mtf.Variable:
            return mtf.Variable(
                mesh, shape, initializer, dtypes.master, merged_dims=merged, reduced_dims=reduced
            )

        self.query = projection([d_model, *inner], query_init, inner, [d_model])
        self.key = self.value = self.key_value = None
        if heads.shared_kv:
            self.key_value = projection([d_model, *memory], fan_in, memory, [d_model])
        else:
            self.key = projection([d_model, *memory], fan_in, memory, [d_model])
            self.value = projection([d_model, *memory], fan_in, memory, [d_model])
        self.output = projection([*inner, d_model], output_init, inner, inner)
        self.query_bias = self.key_bias = self.value_bias = self.output_bias = None
        self.key_value_bias = None
        if heads.use_bias:
            zeros = mtf.initializers.Zeros()
            self.query_bias = projection(inner, zeros, (), ())
            if heads.shared_kv:
                self.key_value_bias = projection(memory, zeros, (), ())
            else:
                self.key_bias = projection(memory, zeros, (), ())
                self.value_bias = projection(memory, zeros, (), ())
        if heads.use_output_bias:
            self.output_bias = mtf.Variable(mesh, [d_model], dtype=dtypes.master)
        self.query_norm = heads.make_norm(mesh, self._query_heads, dtypes)
        self.key_norm = heads.make_norm(mesh, self._memory_heads, dtypes)
        self.dropout = Dropout(dropout_rate)

    def __call__(
        self,
        x: mtf.Tensor,
        memory: AttentionMemory,
        memory_length: mtf.Dimension,
        bias: AttentionBias,
        call: Call,
        *,
        position: mtf.Tensor | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of every vector of x to keys and values, in the shape of x.

        For decoding and cached memory, whose dimension is `memory_length`. x: {batch..., length,
        d_model}, {batch, block, d_model}, or {batch..., d_model} for one position; rotary queries
        of the latter two need their int32 `position`.
        """
        query = self._queries(x, position, None, call)
        mixed = mix_values(
            attention_logits(
                query,
                memory.keys,
                memory_length=memory_length,
                d_kv=self._d_kv,
                cap=self._logits_cap,
            ),
            memory.values,
            memory_length=memory_length,
            output_shape=query.shape,
            bias=bias.map(self.heads.group).value(query.dtype),
            extra_logit=self.heads.extra_logit,
            drop=functools.partial(self.dropout, call=call),
        )
        return self._output(mixed, x.shape, None)

    def over_sequences(
        self,
        x: mtf.Tensor,
        memory: mtf.Tensor,
        bias: AttentionBias,
        call: Call,
        further: FurtherMemory | None = None,
        position: mtf.Tensor | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of every vector of x to whole sequences, in the shape of x.

        x: {batch..., length, d_model}; memory: {batch..., length, d_model}, perhaps x itself, or
        with `memory_length`; the logits: {batch..., heads, length, memory_length}. Where the length
        is split over devices, they exchange heads for positions. A `further` memory is in the same
        softmax. position: {batch..., length} int32 of both, by default 0, 1, ...
        """
        groups = self._head_groups(x.shape.get_dim_by_name("length"))
        query = self._queries(x, position, groups, call)
        contents = self._keys_and_values(memory, position, groups, call)
        length, memory_length = query.shape.dims[-2], contents.keys.shape.dims[-2]
        whole = mtf.Dimension("memory_length", memory_length.size)
        bias = bias.map(self.heads.group)
        rows = [*(x.shape - [length, self._d_model]), *self._query_heads, length]
        dropout = AttentionDropout.of(self.dropout, call, self._mesh, [*rows, whole])
        if groups is not None:
            query = groups.exchange(query, length, QUERY_LENGTH)
            exchange = functools.partial(groups.exchange, positions=memory_length, name=whole.name)
            contents = contents.map(exchange)
            bias, dropout = bias.map(groups.part), dropout and dropout.map(groups.part)
        else:
            contents = contents.map(rename_length_to_memory_length)
        record = None
        if call.recorder is not None and groups is None:
            record = functools.partial(call.recorder.add_attention, self, to_itself=memory is x)
        if further is not None:
            mixed = attend_to_both(
                query,
                BiasedMemory(contents, bias, dropout),
                self._further_memory(further, rows, groups, call),
                block_length=self._block_length,
                cap=self._logits_cap,
            )
        else:
            mixed = attend(
                query,
                contents,
                bias,
                block_length=self._block_length,
                dropout=dropout,
                cap=self._logits_cap,
                extra_logit=self.heads.extra_logit,
                record=record,
            )
        if groups is not None:
            mixed = groups.exchange_back(mixed, length)
        return self._output(mixed, x.shape, groups)

    def _further_memory(
        self,
        further: FurtherMemory,
        rows: Sequence[mtf.Dimension],
        groups: HeadGroups | None,
        call: Call,
    ) -> BiasedMemory:
        """rows: the dimensions of the logits but for the memory's."""
        contents = self._keys_and_values(further.vectors, None, None, call)
        bias = further.bias.map(self.heads.group)
        weights = [*rows, contents.keys.shape.dims[-2]]
        dropout = AttentionDropout.of(further.dropout, call, self._mesh, weights)
        if groups is not None:
            contents, bias = contents.map(groups.part), bias.map(groups.part)
            dropout = dropout and dropout.map(groups.part)
        return BiasedMemory(contents, bias, dropout)

    def keys_and_values(
        self, memory: mtf.Tensor, position: mtf.Tensor | None = None
    ) -> AttentionMemory:
        """Returns the keys and values of {batch..., memory_length, d_model}, or of one position."""
        return self._keys_and_values(memory, position, None, Call())

    def _keys_and_values(
        self,
        memory: mtf.Tensor,
        position: mtf.Tensor | None,
        groups: HeadGroups | None,
        call: Call,
    ) -> AttentionMemory:
        heads = self._memory_heads
        if self.key is None or self.value is None:
            assert self.key_value is not None
            return SharedKeysAndValues(
                self._project(memory, self.key_value, self.key_value_bias, heads, groups)
            )
        keys = self._project(memory, self.key, self.key_bias, heads, groups)
        values = self._project(memory, self.value, self.value_bias, heads, groups)
        keys = self._normalise(keys, self.key_norm, groups, call)
        return KeysAndValues(self._rotate(keys, position), values)

    def empty_cache(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension
    ) -> AttentionMemory:
        """Returns zeros for the keys and values of positions to come."""
        shape = [*batch, *self._memory_heads, memory_length, self._d_kv]
        cache = KeysAndValues.zeros(self._mesh, shape, self._dtypes.activation)
        return SharedKeysAndValues(cache.keys) if self.heads.shared_kv else cache

    def _head_groups(self, length: mtf.Dimension) -> HeadGroups | None:
        parts = self._mesh.num_splits(length)
        if parts == 1:
            return None
        heads = mtf.Shape(self._memory_heads or [("heads", 1)])[0]
        devices = parts * self._mesh.num_splits(heads)
        if heads.size % devices:
            raise mtf.LayoutError(
                f"{length.name}:{length.size} is split over {parts} devices, which exchange their"
                f" positions for heads: {devices} must divide the {heads.size} heads of keys and"
                f" values (num_memory_heads, or num_heads), or drop the rule for {length.name!r}"
            )
        return HeadGroups(heads, parts)

    def _queries(
        self, x: mtf.Tensor, position: mtf.Tensor | None, groups: HeadGroups | None, call: Call
    ) -> mtf.Tensor:
        query = self._project(x, self.query, self.query_bias, self._query_heads, groups)
        query = self._rotate(self._normalise(query, self.query_norm, groups, call), position)
        scale = self.logits_scale
        return query if scale == 1.0 else query * scale

    @property
    def logits_scale(self) -> float:
        """The factor of queries, see `AttentionHeads.logits_scale`."""
        return self.heads.logits_scale(self.query.widths.growth([self._d_kv]))

    def _normalise(
        self, x: mtf.Tensor, norm: Any, groups: HeadGroups | None, call: Call
    ) -> mtf.Tensor:
        if norm is None:
            return x
        if groups is None or self.heads.norm_heads == "alike":
            y: mtf.Tensor = norm(x, call)
            return y
        return groups.cut(norm(groups.join(x), call))

    def _rotate(self, x: mtf.Tensor, position: mtf.Tensor | None) -> mtf.Tensor:
        if self.rotary is None:
            return x
        if position is None:
            position = mtf.range(self._mesh, x.shape.dims[-2])
        return rotate(x, position, self._d_kv, self.rotary)

    def _project(
        self,
        x: mtf.Tensor,
        kernel: mtf.Variable,
        bias: mtf.Variable | None,
        heads: Sequence[mtf.Dimension],
        groups: HeadGroups | None = None,
    ) -> mtf.Tensor:
        """Returns {groups, batch..., heads (of a group), length, d_kv}: nothing to transpose."""
        dtype = self._dtypes.activation
        inner = [*heads_before_positions(x.shape - self._d_model, heads), self._d_kv]
        weights = mtf.cast(kernel, dtype)
        if groups is not None:
            weights = groups.of_kernel(weights)
            grouped = [groups.heads_of_group if dim == groups.heads else dim for dim in inner]
            inner = [groups.groups, *grouped]
        projected = mtf.einsum([mtf.cast(x, dtype), weights], output_shape=inner)
        projected = mtf.keep(projected, PROJECTIONS)
        if bias is not None:
            added = mtf.cast(bias, dtype)
            added = added if groups is None else groups.of_kernel(added)
            projected = mtf.add(projected, added, output_shape=inner)
        limit = self.heads.projection_limit
        if limit is None:
            return projected
        return mtf.minimum(mtf.maximum(projected, -limit), limit)

    def _output(self, mixed: mtf.Tensor, shape: mtf.Shape, groups: HeadGroups | None) -> mtf.Tensor:
        output = mtf.cast(self.output, self._dtypes.activation)
        if groups is not None:
            output = groups.of_kernel(output)
        y = mtf.keep(mtf.einsum([mixed, output], output_shape=shape), PROJECTIONS)
        return y if self.output_bias is None else y + mtf.cast(self.output_bias, y.dtype)
