"""Self-attention to groups of positions as a sublayer."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import (
    Context,
    Dropout,
    KeysAndValues,
    memory_compressed_keys_and_values,
    multihead_self_attention_memory_compressed,
    multihead_self_attention_memory_compressed_incremental,
)
from mtfrun.models.transformer.projected_attention import ProjectedAttention


class CompressedSelfAttention(ProjectedAttention):
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
        super().__init__(mesh, d_model, dtypes, num_heads=num_heads, d_kv=d_kv)
        self._compression_factor = compression_factor
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

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output for whole rows of any length, and the keys and values of groups."""
        length = x.shape.get_dim_by_name("length")
        rest = -length.size % self._compression_factor
        x = mtf.pad(x, [0, rest], length.name)
        memory = memory_compressed_keys_and_values(
            x, context.number_known(), self._compression_factor, self.parameters()
        )
        return mtf.slice(self(x, context), 0, length.size, length.name), KeysAndValues(*memory)

    def _remembered(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        """Returns the groups."""
        number = -(-memory_length.size // self._compression_factor)
        return mtf.Dimension(memory_length.name, number)

    def _attend_once(
        self,
        x: mtf.Tensor,
        memory: KeysAndValues,
        position: mtf.Tensor,
        condition: mtf.Tensor | None,
    ) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        return multihead_self_attention_memory_compressed_incremental(
            x, *memory, position, self._compression_factor, self.parameters(), condition
        )
