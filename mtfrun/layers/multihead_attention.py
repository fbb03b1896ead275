"""Multi-head attention over whole sequences and over one position, with its cache."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from mtfrun import mtf
from mtfrun.layers.attention import dot_product_attention
from mtfrun.layers.attention_heads import AttentionHeads
from mtfrun.layers.call import Call
from mtfrun.layers.dropout import Dropout
from mtfrun.layers.keys_and_values import KeysAndValues
from mtfrun.layers.rotary import rotate


class MultiHeadAttention(mtf.Module):
    """Attention with trained projections; Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool = False,
        dropout_rate: float = 0.0,
    ) -> None:
        """Makes the specs of query, key, value {d_model, heads, d_kv}; output has d_model last.

        Grouped heads have {..., heads, query_heads, ...} in query and output, and one memory head
        has {d_model, d_kv} in key and value; see `AttentionHeads`.

        Args:
          mesh: the mesh.
          d_model: the dimension of the vectors.
          dtypes: of variables and of activations.
          heads: their number and size.
          rotary: queries and keys are rotated by their position.
          dropout_rate: of the attention weights.
        """
        super().__init__()
        self._mesh = mesh
        self._d_model = d_model
        self._dtypes = dtypes
        self._rotary = rotary
        self._query_heads, self._memory_heads = heads.query_dims, heads.memory_dims
        self._d_kv = heads.size_dim
        inner, memory = [*self._query_heads, self._d_kv], [*self._memory_heads, self._d_kv]
        fan_in = mtf.VarianceScaling()([d_model], memory)
        # The factor d_kv ** -0.5 of the logits, squared because this scales a variance.
        query_init = mtf.VarianceScaling(scale=1.0 / heads.d_kv)([d_model], inner)
        output_init = mtf.VarianceScaling()(inner, [d_model])

        def projection(
            shape: mtf.ShapeLike, initializer: mtf.Initializer, merged: Sequence[mtf.Dimension]
        ) -> mtf.Variable:
            return mtf.Variable(mesh, shape, initializer, dtypes.master, merged_dims=merged)

        self.query = projection([d_model, *inner], query_init, inner)
        self.key = projection([d_model, *memory], fan_in, memory)
        self.value = projection([d_model, *memory], fan_in, memory)
        self.output = projection([*inner, d_model], output_init, inner)
        self.dropout = Dropout(dropout_rate)

    def __call__(
        self,
        x: mtf.Tensor,
        memory: KeysAndValues,
        memory_length: mtf.Dimension,
        bias: mtf.Tensor | None,
        call: Call,
        *,
        position: mtf.Tensor | None = None,
    ) -> mtf.Tensor:
        """Returns the attention of every vector of x to the memory, in the shape of x.

        Args:
          x: {batch..., length, d_model}, or {batch..., d_model} for one position.
          memory: of `keys_and_values`, or a cache.
          memory_length: its dimension.
          bias: added to the logits; see `dot_product_attention`.
          call: see `Call`.
          position: that of x where x is one position, an int32 scalar; rotary queries need it.
        """
        query = self._project(x, self.query, self._query_heads)
        if self._rotary:
            query = self._rotate(query, position, "length")
        mixed = dot_product_attention(
            query,
            *memory,
            memory_length=memory_length,
            d_kv=self._d_kv,
            bias=self._of_grouped_heads(bias),
            drop=functools.partial(self.dropout, call=call),
        )
        output = mtf.cast(self.output, self._dtypes.activation)
        return mtf.einsum([mixed, output], output_shape=x.shape)

    def keys_and_values(
        self, memory: mtf.Tensor, position: mtf.Tensor | None = None
    ) -> KeysAndValues:
        """Returns the keys and values of a memory {batch..., memory_length, d_model}.

        Args:
          memory: as above, or {batch..., d_model} for one position.
          position: that of the memory where it is one position, an int32 scalar.
        """
        keys = self._project(memory, self.key, self._memory_heads)
        if self._rotary:
            keys = self._rotate(keys, position, "memory_length")
        return KeysAndValues(keys, self._project(memory, self.value, self._memory_heads))

    def empty_cache(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension
    ) -> KeysAndValues:
        """Returns zeros for the keys and values of positions to come."""
        shape = [*batch, *self._memory_heads, memory_length, self._d_kv]
        return KeysAndValues.zeros(self._mesh, shape, self._dtypes.activation)

    def extend_cache(
        self,
        cache: KeysAndValues,
        x: mtf.Tensor,
        position: mtf.Tensor,
        condition: mtf.Tensor | None = None,
    ) -> tuple[KeysAndValues, mtf.Dimension]:
        """Returns the cache with the keys and values of a position, and its memory dimension.

        Args:
          cache: see `empty_cache`.
          x: {batch..., d_model} of the position.
          position: an int32 scalar.
          condition: {batch...} bool: rows where it does not hold keep their cache; None for all.
        """
        memory_length = cache.keys.shape.get_dim_by_name("memory_length")
        extended = cache.map(
            lambda memory, entry: mtf.write_position(
                memory, entry, memory_length, position, condition
            ),
            self.keys_and_values(x, position),
        )
        return extended, memory_length

    def _rotate(self, x: mtf.Tensor, position: mtf.Tensor | None, length_name: str) -> mtf.Tensor:
        """Returns x rotated by its position; None for positions 0, 1, ... along `length_name`."""
        if position is None:
            position = mtf.range(self._mesh, x.shape.get_dim_by_name(length_name))
        return rotate(x, position, self._d_kv)

    def _of_grouped_heads(self, bias: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns a bias {heads, ...} with the dimensions of grouped heads in place of heads."""
        if bias is None or len(self._query_heads) == 1 or "heads" not in bias.shape.dimension_names:
            return bias
        heads = bias.shape.get_dim_by_name("heads")
        return mtf.replace_dimensions(bias, heads, self._query_heads)

    def _project(
        self, x: mtf.Tensor, kernel: mtf.Variable, heads: Sequence[mtf.Dimension]
    ) -> mtf.Tensor:
        """Returns {batch..., heads, length, d_kv}, so that attention needs no transposes."""
        dtype = self._dtypes.activation
        outer = (x.shape - self._d_model).dims
        sequence = [dim for dim in outer[-1:] if dim.name in ("length", "memory_length")]
        batch = outer[: len(outer) - len(sequence)]
        output_shape = [*batch, *heads, *sequence, self._d_kv]
        return mtf.einsum([mtf.cast(x, dtype), mtf.cast(kernel, dtype)], output_shape=output_shape)
