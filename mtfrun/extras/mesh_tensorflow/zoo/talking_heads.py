"""Talking-heads attention, which mixes heads before and after the softmax."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import check_choice
from mtfrun.layers import (
    AttentionBias,
    Call,
    Dense,
    Dropout,
    heads_before_positions,
    rename_length_to_memory_length,
)
from mtfrun.models.transformer.attention import (
    CachedEncoderDecoderAttention,
    CachedSelfAttention,
    RelativeBiasClass,
)

# "keys", "values", and the memory's terms of the maps "logits" and "weights".
Memory = dict[str, mtf.Tensor]


@dataclasses.dataclass(frozen=True)
class TalkingHeads:
    """The heads of talking-heads attention: of queries and keys, of the softmax, and of values.

    Each is a list of dimensions, such as [("heads", 12)]. A trained map between consecutive lists
    mixes the dimensions that differ; equal lists have no map. A layout can split only a dimension
    that is in all three lists without gathering logits.

    Attributes:
      d_k: the size of queries and keys.
      d_v: the size of values.
      dynamic_logits: the inputs, "query" or "memory", that predict terms of the map to the logits
        (section 6 of the paper).
      dynamic_weights: the same for the map from the softmax to the values.
      dynamic_scale: the initial variance scale of the dynamic maps.
    """

    key_heads: Sequence[mtf.DimensionLike] = (("key_heads", 12),)
    softmax_heads: Sequence[mtf.DimensionLike] = (("heads", 12),)
    value_heads: Sequence[mtf.DimensionLike] = (("value_heads", 12),)
    d_k: int = 64
    d_v: int = 64
    dynamic_logits: Sequence[str] = ()
    dynamic_weights: Sequence[str] = ()
    dynamic_scale: float = 1e-2

    def __post_init__(self) -> None:
        softmax = set(mtf.Shape(self.softmax_heads))
        for name, heads in (("logits", self.key_heads), ("weights", self.value_heads)):
            dynamic = getattr(self, f"dynamic_{name}")
            for each in dynamic:
                check_choice(f"TalkingHeads.dynamic_{name}", each, ("query", "memory"))
            if dynamic and set(mtf.Shape(heads)) == softmax:
                raise InputError(
                    f"TalkingHeads.dynamic_{name}={list(dynamic)} mixes equal heads: rename their "
                    "dimension, so that softmax_heads has another"
                )


class HeadMap(mtf.Module):
    """A trained linear map of heads, with dynamic terms that depend on the positions.

    Args:
      old, new: the heads before and after; dimensions in both are not mixed.
      dynamic: the inputs that predict terms: "query", "memory".
      scale: see `TalkingHeads.dynamic_scale`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        old: mtf.Shape,
        new: mtf.Shape,
        *,
        dynamic: Sequence[str],
        scale: float,
    ) -> None:
        super().__init__()
        shared = [dim for dim in old if dim in new]
        self._reduced = [dim for dim in old if dim not in new]
        self._added = [dim for dim in new if dim not in old]
        shape = [*shared, *self._reduced, *self._added]
        initial = mtf.VarianceScaling()(self._reduced, self._added)
        self._dtype = dtypes.activation
        self.kernel = mtf.Variable(mesh, shape, initial, dtypes.master)
        dense = functools.partial(
            Dense,
            *(mesh, [d_model], shape, dtypes),
            use_bias=False,
            kernel_initializer=mtf.VarianceScaling(scale / mtf.Shape(self._reduced).size),
        )
        self.query_map = dense() if "query" in dynamic else None
        self.memory_map = dense() if "memory" in dynamic else None

    def __call__(
        self, x: mtf.Tensor, query: mtf.Tensor, memory_term: mtf.Tensor | None, call: Call
    ) -> mtf.Tensor:
        """Returns {..., new heads..., length, memory_length} for x with the old heads.

        query: {..., length, d_model}; memory_term: {..., memory_length, heads...}.
        """
        static = mtf.cast(self.kernel, self._dtype)
        maps = [] if self.query_map is None else [self.query_map(query, call)]
        maps = [*maps, *([] if memory_term is None else [memory_term])]
        # Add the static map to the smaller term, which lacks one of the lengths.
        maps = [maps[0] + static, *maps[1:]] if maps else [static]
        place = min(x.shape.index(dim) for dim in self._reduced) if self._reduced else 0
        dims = (x.shape - mtf.Shape(self._reduced)).dims
        output_shape = [*dims[:place], *self._added, *dims[place:]]
        return mtf.add_n([mtf.einsum([x, each], output_shape=output_shape) for each in maps])


class TalkingHeadsAttention(mtf.Module):
    """Attention with talking heads; Shazeer et al. 2020, arXiv:2003.02436, section 3.

    The logits {..., key heads, length, memory_length} are mapped to the softmax's heads, and its
    weights to the values' heads. As in Mesh TensorFlow, the factor d_k ** -0.5 is folded into the
    query's initialiser. Biases have the softmax's heads. Where the length is split over devices,
    each gathers the keys and values of all positions.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        heads: TalkingHeads,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self._mesh, self._d_model, self._dtypes = mesh, d_model, dtypes
        self._key_heads, self._softmax_heads, self._value_heads = (
            mtf.Shape(dims) for dims in (heads.key_heads, heads.softmax_heads, heads.value_heads)
        )
        self._d_k, self._d_v = mtf.Dimension("d_k", heads.d_k), mtf.Dimension("d_v", heads.d_v)
        dense = functools.partial(Dense, mesh, dtypes=dtypes, use_bias=False)
        key_dims, value_dims = [*self._key_heads, self._d_k], [*self._value_heads, self._d_v]
        smaller = mtf.VarianceScaling(1.0 / heads.d_k)
        self.query = dense([d_model], key_dims, kernel_initializer=smaller)
        self.key = dense([d_model], key_dims)
        self.value = dense([d_model], value_dims)
        self.output = dense(value_dims, [d_model])
        head_map = functools.partial(HeadMap, mesh, d_model, dtypes, scale=heads.dynamic_scale)

        def map_between(old: mtf.Shape, new: mtf.Shape, dynamic: Sequence[str]) -> HeadMap | None:
            return None if set(old) == set(new) else head_map(old, new, dynamic=dynamic)

        self.logits = map_between(self._key_heads, self._softmax_heads, heads.dynamic_logits)
        self.weights = map_between(self._softmax_heads, self._value_heads, heads.dynamic_weights)
        self.dropout = Dropout(dropout_rate)

    def over_sequences(
        self, x: mtf.Tensor, memory: mtf.Tensor, bias: AttentionBias, call: Call
    ) -> mtf.Tensor:
        """Returns the attention of x to whole sequences, in the shape of x.

        x: {batch..., length, d_model}; memory: the same, or with `memory_length`.
        """
        record = None
        if call.recorder is not None:
            record = functools.partial(call.recorder.add_attention, self, to_itself=memory is x)
        memory = rename_length_to_memory_length(memory)
        memory_length = memory.shape.get_dim_by_name("memory_length")
        cache = self.keys_and_values(memory)
        return self(x, cache, memory_length, bias, call, record=record)

    def __call__(
        self,
        x: mtf.Tensor,
        memory: Memory,
        memory_length: mtf.Dimension,
        bias: AttentionBias,
        call: Call,
        *,
        position: mtf.Tensor | None = None,
        record: Callable[[mtf.Tensor], None] | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of x {batch..., d_model}, or of a block, to a cache."""
        outer = x.shape - self._d_model
        query = self.query(x, call)
        growth = self.query.kernel.widths.growth([self._d_k])
        query = query if growth == 1.0 else query * (1.0 / growth)  # see `logits_scale`
        logits = mtf.einsum(
            [query, memory["keys"]],
            output_shape=[*heads_before_positions(outer, self._key_heads.dims), memory_length],
        )
        if self.logits is not None:
            logits = self.logits(logits, x, memory.get("logits"), call)
        added = bias.map(self._split_heads).value(self._dtypes.activation, logits.shape)
        if added is not None:
            logits = mtf.to_float(logits) + mtf.to_float(added)
        weights = mtf.softmax(mtf.to_float(logits), memory_length)
        if record is not None:
            record(weights)
        weights = mtf.cast(weights, self._dtypes.activation)
        if self.weights is not None:
            weights = self.weights(weights, x, memory.get("weights"), call)
        weights = self.dropout(weights, call)
        mixed = mtf.einsum(
            [weights, memory["values"]], output_shape=[*outer, *self._value_heads, self._d_v]
        )
        return self.output(mixed, call)

    def keys_and_values(self, memory: mtf.Tensor, position: mtf.Tensor | None = None) -> Memory:
        """Returns the cache for {batch..., memory_length, d_model}, or a position's entries."""
        return {name: layer(memory, Call()) for name, layer in self._cached_layers.items()}

    def empty_cache(self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension) -> Memory:
        shape = [*batch, memory_length]
        return {
            name: mtf.zeros(
                self._mesh, [*shape, *layer.kernel.shape.dims[1:]], self._dtypes.activation
            )
            for name, layer in self._cached_layers.items()
        }

    @property
    def _cached_layers(self) -> dict[str, Dense]:
        layers = {"keys": self.key, "values": self.value}
        for name, head_map in (("logits", self.logits), ("weights", self.weights)):
            if head_map is not None and head_map.memory_map is not None:
                layers[name] = head_map.memory_map
        return layers

    def _split_heads(self, x: mtf.Tensor) -> mtf.Tensor:
        """Splits "heads" of a bias into the softmax's dimensions, if their sizes agree."""
        if len(self._softmax_heads) == 1 or "heads" not in x.shape.dimension_names:
            return x
        heads = x.shape.get_dim_by_name("heads")
        if heads.size != self._softmax_heads.size:
            return x
        return mtf.replace_dimensions(x, heads, self._softmax_heads.dims)


class TalkingHeadsSelfAttention(CachedSelfAttention):
    """Self-attention with talking heads, as in T5's `t5.1.th` models.

    Args:
      relative_bias: see `SelfAttention`; with as many heads as the softmax.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: TalkingHeads = TalkingHeads(),
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        attention = TalkingHeadsAttention(mesh, d_model, dtypes, heads, dropout_rate)
        super().__init__(mesh, attention, relative_bias, dtypes)


class TalkingHeadsEncoderDecoderAttention(CachedEncoderDecoderAttention):
    """Attention with talking heads to the encoder's output."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: TalkingHeads = TalkingHeads(),
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(TalkingHeadsAttention(mesh, d_model, dtypes, heads, dropout_rate))
