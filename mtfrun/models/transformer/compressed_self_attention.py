"""Self-attention to groups of positions as a sublayer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.layers import (
    AttentionParameters,
    Context,
    Dropout,
    Sublayer,
    multihead_self_attention_memory_compressed,
)


class CompressedSelfAttention(Sublayer):
    """Attention to means of neighbours; see `multihead_self_attention_memory_compressed`.

    For whole rows only, whose length `compression_factor` must divide. Segments of packed rows are
    not kept apart.
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
    ) -> Any:
        """Raises ValueError: it has no steps."""
        raise ValueError(
            "CompressedSelfAttention does not decode step by step, for it attends to groups of"
            " positions: decode with a model of other layers"
        )
