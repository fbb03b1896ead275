"""Self-attention to groups of positions as a sublayer."""

from __future__ import annotations

from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.layers import (
    AttentionParameters,
    Context,
    Dropout,
    KeysAndValues,
    Sublayer,
    multihead_self_attention_memory_compressed,
    multihead_self_attention_memory_compressed_incremental,
)


class CompressedSelfAttention(Sublayer):
    """Attention to means of neighbours; see `multihead_self_attention_memory_compressed`.

    `compression_factor` must divide the length of whole rows. Segments of packed rows are not kept
    apart.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        d_kv: int = 64,
        compression_factor: int = 4,
        dropout_rate: float = 0.0,
    ) -> None:
        """Makes the projections; `compression_factor` is the positions in a group."""
        super().__init__()
        self._mesh = mesh
        self._dtypes = dtypes
        self._compression_factor = compression_factor
        heads, kv = mtf.Dimension("heads", num_heads), mtf.Dimension("d_kv", d_kv)
        self.parameters = AttentionParameters(mesh, heads, d_model, kv, dtypes)
        self.dropout = Dropout(dropout_rate)

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        return multihead_self_attention_memory_compressed(
            x,
            not context.bidirectional,
            self._compression_factor,
            self.parameters(),
            drop=lambda weights: self.dropout(weights, context),
        )

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> KeysAndValues:
        """Returns an empty cache of the keys and values of groups."""
        heads, _, kv = self.parameters.wq.shape
        number = -(-memory_length.size // self._compression_factor)
        groups = mtf.Dimension(memory_length.name, number)
        zeros = mtf.zeros(self._mesh, [*batch, heads, groups, kv], self._dtypes.activation)
        return KeysAndValues(zeros, zeros)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at `context.position` and the cache with that position added."""
        if context.position is None:
            raise ValueError("a step of compressed attention needs context.position")
        y, k, v = multihead_self_attention_memory_compressed_incremental(
            x, *state, context.position, self._compression_factor, self.parameters()
        )
        return y, KeysAndValues(k, v)
