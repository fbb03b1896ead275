"""Multi-head attention over whole sequences and over one position, with its cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers.attention.cache import AttentionMemory, KeysAndValues, SharedKeysAndValues
from mtfrun.layers.attention.context_parallelism import QUERY_LENGTH, HeadGroups
from mtfrun.layers.attention.dot_product import (
    BiasedMemory,
    attend,
    attend_to_both,
    attention_logits,
    mix_values,
)
from mtfrun.layers.attention.heads import AttentionHeads, HeadProjections
from mtfrun.layers.attention.masks import AttentionBias, rename_length_to_memory_length
from mtfrun.layers.attention.positions.rotary import RotaryPositions, rotate
from mtfrun.layers.dropout import AttentionDropout, Dropout
from mtfrun.layers.layer import Call


@dataclasses.dataclass(frozen=True)
class FurtherMemory:
    """Vectors {batch..., memory_length, d_model} that queries see in addition to a sequence.

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
          dropout_rate: dropout of the attention weights.
          block_length: longer sequences are computed in blocks of at most so many positions, with
            memory proportional to their length, see `attention_in_blocks`; None for never.
        """
        super().__init__()
        check_range("block_length", block_length, COUNT, optional=True)
        if heads.shared_kv and rotary:
            raise InputError("AttentionHeads: leave out one of shared_kv and rotary, of keys alone")
        self._mesh, self._d_model, self._dtypes = mesh, d_model, dtypes
        self._block_length = block_length
        self.heads = heads
        self.rotary = RotaryPositions() if rotary is True else rotary or None
        self._projections = make = HeadProjections(mesh, d_model, heads, dtypes)
        self.query = make.query_kernel()
        self.key = self.value = self.key_value = None
        if heads.shared_kv:
            self.key_value = make.memory_kernel()
        else:
            self.key, self.value = make.memory_kernel(), make.memory_kernel()
        self.output = make.output_kernel()
        self.query_bias = make.bias(heads.query_dims)
        self.key_bias = self.value_bias = self.key_value_bias = None
        if heads.shared_kv:
            self.key_value_bias = make.bias(heads.memory_dims)
        else:
            self.key_bias, self.value_bias = (make.bias(heads.memory_dims) for _ in range(2))
        self.output_bias = make.output_bias()
        self.query_norm = heads.make_norm(mesh, heads.query_dims, dtypes)
        self.key_norm = heads.make_norm(mesh, heads.memory_dims, dtypes)
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

        For decoding and cached memory, with the dimension `memory_length`. x: {batch..., length,
        d_model}, {batch, block, d_model}, or {batch..., d_model} for one position; rotary queries
        of the latter two need their int32 `position`.
        """
        query = self._queries(x, position, None, call)
        logits = attention_logits(
            query,
            memory.keys,
            memory_length=memory_length,
            d_kv=self.heads.size_dim,
            cap=self.heads.logits_cap,
        )
        mixed = mix_values(
            logits,
            memory.values,
            memory_length=memory_length,
            output_shape=query.shape,
            bias=bias.map(self.heads.group).value(query.dtype),
            extra_logit=self.heads.extra_logit,
            drop=functools.partial(self.dropout, call=call),
        )
        return self._projections.output(mixed, self.output, self.output_bias, x.shape, None)

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
        length = x.shape.get_dim_by_name("length")
        groups = HeadGroups.of(self._mesh, length, self.heads.memory_dims)
        query = self._queries(x, position, groups, call)
        contents = self._keys_and_values(memory, position, groups, call)
        length, memory_length = query.shape.dims[-2], contents.keys.shape.dims[-2]
        whole = mtf.Dimension("memory_length", memory_length.size)
        bias = bias.map(self.heads.group)
        rows = [*(x.shape - [length, self._d_model]), *self.heads.query_dims, length]
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
        biased, block_length = BiasedMemory(contents, bias, dropout), self._block_length
        cap, extra_logit = self.heads.logits_cap, self.heads.extra_logit
        if further is not None:
            second = self._further_memory(further, rows, groups, call)
            mixed = attend_to_both(query, biased, second, block_length=block_length, cap=cap)
        else:
            mixed = attend(
                query,
                biased,
                block_length=block_length,
                cap=cap,
                extra_logit=extra_logit,
                record=record,
            )
        if groups is not None:
            mixed = groups.exchange_back(mixed, length)
        return self._projections.output(mixed, self.output, self.output_bias, x.shape, groups)

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
        self, memory: mtf.Tensor, position: mtf.Tensor | None, groups: HeadGroups | None, call: Call
    ) -> AttentionMemory:
        project, heads = self._projections.project, self.heads.memory_dims
        if self.key is None or self.value is None:
            assert self.key_value is not None
            shared = project(memory, self.key_value, self.key_value_bias, heads, groups)
            return SharedKeysAndValues(shared)
        keys = project(memory, self.key, self.key_bias, heads, groups)
        keys = self._projections.normalise(keys, self.key_norm, groups, call)
        values = project(memory, self.value, self.value_bias, heads, groups)
        return KeysAndValues(self._rotate(keys, position), values)

    def empty_cache(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension
    ) -> AttentionMemory:
        """Returns an empty cache of keys and values, zeros."""
        shape = [*batch, *self.heads.memory_dims, memory_length, self.heads.size_dim]
        cache = KeysAndValues.zeros(self._mesh, shape, self._dtypes.activation)
        return SharedKeysAndValues(cache.keys) if self.heads.shared_kv else cache

    def _queries(
        self, x: mtf.Tensor, position: mtf.Tensor | None, groups: HeadGroups | None, call: Call
    ) -> mtf.Tensor:
        dims, scale = self.heads.query_dims, self.logits_scale
        query = self._projections.project(x, self.query, self.query_bias, dims, groups)
        query = self._projections.normalise(query, self.query_norm, groups, call)
        query = self._rotate(query, position)
        return query if scale == 1.0 else query * scale

    @property
    def logits_scale(self) -> float:
        """The factor of queries, see `AttentionHeads.logits_scale`."""
        return self.heads.logits_scale(self.query.widths.growth([self.heads.size_dim]))

    def _rotate(self, x: mtf.Tensor, position: mtf.Tensor | None) -> mtf.Tensor:
        if self.rotary is None:
            return x
        if position is None:
            position = mtf.range(self._mesh, x.shape.dims[-2])
        return rotate(x, position, self.heads.size_dim, self.rotary)
