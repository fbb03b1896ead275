"""The Synthesizer: attention logits that are trained or predicted, without keys."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_choice, check_fields
from mtfrun.layers import (
    AttentionBias,
    AttentionHeads,
    Call,
    Dense,
    Dropout,
    heads_before_positions,
    mix_values,
    rename_length_to_memory_length,
)
from mtfrun.layers.attention.heads import HeadProjections
from mtfrun.models.transformer.attention import CachedSelfAttention, RelativeBiasClass

# The table's dimensions, which no layout rule for the length splits.
_QUERIES, _MEMORY = "query_positions", "memory_positions"

# "values", and "keys" if there are dot products.
Memory = dict[str, mtf.Tensor]


@dataclasses.dataclass(frozen=True)
class SyntheticLogits:
    """Settings of the synthetic logits {heads, length, memory_length}.

    Attributes:
      kind: "random", a trained table of all pairs of positions (section 3.2 of the paper); "dense",
        a map from the rectified query to all memory positions (section 3.1); or "factorized", two
        tables {factor_size, memory positions}, the same for all queries: a bug of Mesh TensorFlow
        that its checkpoints were trained with.
      dot_products: "added" to query-key products, "gated" with them by a trained scalar, or None.
      max_length: the maximum sequence length.
      factor_size: the number of rows of the "factorized" tables.
    """

    kind: str = "random"
    dot_products: str | None = "gated"
    max_length: int = 512
    factor_size: int = 16

    def __post_init__(self) -> None:
        check_choice("SyntheticLogits.kind", self.kind, ("random", "factorized", "dense"))
        if self.dot_products is not None:
            choices = ("added", "gated")
            check_choice("SyntheticLogits.dot_products", self.dot_products, choices)
        check_fields(self, COUNT, "max_length", "factor_size")


class SynthesizerAttention(mtf.Module):
    """Attention by trained or predicted logits; Tay et al. 2020, arXiv:2005.00743, section 3.

    For the arguments see `Synthesizer`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        num_heads: int,
        d_kv: int,
        logits: SyntheticLogits,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self._mesh, self._d_model, self._dtypes = mesh, d_model, dtypes
        heads = AttentionHeads(num_heads, d_kv=d_kv)
        (self._heads,), self._d_kv = heads.query_dims, heads.size_dim
        self._make = HeadProjections(mesh, d_model, heads, dtypes)
        self._compares = logits.dot_products is not None
        self._memory_positions = mtf.Dimension(_MEMORY, logits.max_length)
        inner = [self._heads, self._d_kv]
        self.query = self.key = self.value = self.key_value = None
        if self._compares or logits.kind == "dense":
            self.query = self._make.query_kernel()
        if self._compares:
            self.key, self.value = (self._make.kernel([d_model], inner) for _ in range(2))
        else:
            self.key_value = self._make.kernel([d_model], inner)
        self.output = self._make.output_kernel()
        self.table = self.dense = None
        self.factors: list[mtf.Variable] = []
        if logits.kind == "random":
            self.table = self._table(mtf.Dimension(_QUERIES, logits.max_length))
        elif logits.kind == "factorized":
            factor = mtf.Dimension("factor", logits.factor_size)
            self.factors = [self._table(factor) for _ in range(2)]
        else:
            self.dense = Dense(mesh, [self._d_kv], [self._memory_positions], dtypes, use_bias=False)
        self.gate = None
        if logits.dot_products == "gated":
            self.gate = mtf.Variable(mesh, [("alpha", 1)], dtype=dtypes.master)
        self.dropout = Dropout(dropout_rate)

    def _table(self, first: mtf.Dimension) -> mtf.Variable:
        """Initialised as a convolution's kernel by TensorFlow's default, Glorot uniform."""
        heads, memory = self._heads, self._memory_positions
        limit = (6.0 / (first.size * (heads.size + memory.size))) ** 0.5
        initial = mtf.initializers.RandomUniform(-limit, limit)
        return mtf.Variable(
            self._mesh, [first, heads, memory], initial, self._dtypes.master, reduced_dims=()
        )

    def over_sequences(
        self, x: mtf.Tensor, memory: mtf.Tensor, bias: AttentionBias, call: Call
    ) -> mtf.Tensor:
        """Returns the attention of x {batch..., length, d_model} to vectors of the same shape."""
        memory = rename_length_to_memory_length(memory)
        memory_length = memory.shape.get_dim_by_name("memory_length")
        return self(x, self.keys_and_values(memory), memory_length, bias, call)

    def __call__(
        self,
        x: mtf.Tensor,
        memory: Memory,
        memory_length: mtf.Dimension,
        bias: AttentionBias,
        call: Call,
        *,
        position: mtf.Tensor | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of x {batch..., d_model} to a cache.

        position: the step's int32 position or a block's; None for x {batch..., length, d_model}.
        """
        dtype = self._dtypes.activation
        inner = self._inner_shape(x)
        query = None if self.query is None else self._project(x, self.query)
        logits = self._synthesize(query, x, memory_length, position)
        if self._compares:
            assert query is not None
            dots = mtf.einsum(
                [query, memory["keys"]], output_shape=[*(inner - self._d_kv), memory_length]
            )
            if self.gate is None:
                logits = dots + logits
            else:
                share = mtf.reshape(mtf.cast(mtf.sigmoid(mtf.to_float(self.gate)), dtype), [])
                logits = dots * (1 - share) + logits * share
        mixed = mix_values(
            logits,
            memory["values"],
            memory_length=memory_length,
            output_shape=inner,
            bias=bias.value(dtype),
            drop=functools.partial(self.dropout, call=call),
        )
        return self._make.output(mixed, self.output, None, x.shape, None)

    def keys_and_values(self, memory: mtf.Tensor, position: mtf.Tensor | None = None) -> Memory:
        """Returns the cache for {batch..., memory_length, d_model}, or a position's entries."""
        if self.key is None or self.value is None:
            assert self.key_value is not None
            return {"values": self._project(memory, self.key_value)}
        keys, values = self._project(memory, self.key), self._project(memory, self.value)
        return {"keys": keys, "values": values}

    def empty_cache(self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension) -> Memory:
        shape = [*batch, self._heads, memory_length, self._d_kv]
        zeros = mtf.zeros(self._mesh, shape, self._dtypes.activation)
        return {"keys": zeros, "values": zeros} if self._compares else {"values": zeros}

    def _synthesize(
        self,
        query: mtf.Tensor | None,
        x: mtf.Tensor,
        memory_length: mtf.Dimension,
        position: mtf.Tensor | None,
    ) -> mtf.Tensor:
        """Returns {..., heads, length, memory_length}, without a batch unless "dense"."""
        size = self._memory_positions.size
        if memory_length.size > size:
            raise InputError(
                f"SyntheticLogits.max_length={size} must be at least {memory_length.size}, the "
                "length of the sequence"
            )
        dtype = self._dtypes.activation
        if self.dense is not None:
            assert query is not None
            logits = self.dense(mtf.relu(query), Call())
        elif self.table is not None:
            logits = self._rows(mtf.cast(self.table, dtype), x, position)
        else:
            first, second = (mtf.cast(factor, dtype) for factor in self.factors)
            product = mtf.reduce_sum(first * second, reduced_dim=first.shape[0])
            inner = self._inner_shape(x)
            sequence = inner.dims[inner.index(self._heads) + 1 : -1]
            logits = mtf.broadcast(product, [*sequence, *product.shape])
        logits = mtf.slice(logits, 0, memory_length.size, _MEMORY)
        return mtf.rename_dimension(logits, _MEMORY, memory_length.name)

    def _rows(self, table: mtf.Tensor, x: mtf.Tensor, position: mtf.Tensor | None) -> mtf.Tensor:
        if position is not None:
            return mtf.gather(table, position, table.shape.get_dim_by_name(_QUERIES))
        length = x.shape.get_dim_by_name("length")
        rows = mtf.slice(table, 0, length.size, _QUERIES)
        return mtf.rename_dimension(rows, _QUERIES, length.name)

    def _inner_shape(self, x: mtf.Tensor) -> mtf.Shape:
        """Returns {batch..., heads, length, d_kv} for x {batch..., length, d_model}."""
        outer = heads_before_positions(x.shape - self._d_model, [self._heads])
        return mtf.Shape([*outer, self._d_kv])

    def _project(self, x: mtf.Tensor, kernel: mtf.Variable) -> mtf.Tensor:
        return self._make.project(x, kernel, None, [self._heads], None)


class Synthesizer(CachedSelfAttention):
    """Self-attention with synthetic logits; Tay et al. 2020, arXiv:2005.00743.

    As in Mesh TensorFlow, values without keys are projected by "key_value", and the factor
    d_kv ** -0.5 of the logits is folded into the query's initialiser.

    Args:
      relative_bias: see `SelfAttention`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        relative_bias: RelativeBiasClass | None = None,
        num_heads: int = 8,
        d_kv: int = 64,
        logits: SyntheticLogits = SyntheticLogits(),
        dropout_rate: float = 0.0,
    ) -> None:
        attention = SynthesizerAttention(
            mesh, d_model, dtypes, num_heads, d_kv, logits, dropout_rate
        )
        super().__init__(mesh, attention, relative_bias, dtypes)
