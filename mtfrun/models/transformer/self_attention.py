"""Self-attention as a sublayer."""

from __future__ import annotations

from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.layers import Context, KeysAndValues, MultiHeadAttention, Sublayer


class SelfAttention(Sublayer):
    """Every position attends to those that the context's `self_attention_bias` leaves open."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        d_kv: int = 64,
        dropout_rate: float = 0.0,
    ) -> None:
        """Makes the projections; `dropout_rate` is that of the attention weights."""
        super().__init__()
        self.attention = MultiHeadAttention(
            mesh, d_model, dtypes, num_heads=num_heads, d_kv=d_kv, dropout_rate=dropout_rate
        )

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        memory = mtf.rename_dimension(x, "length", "memory_length")
        return self.attention(
            x,
            self.attention.keys_and_values(memory),
            memory.shape.get_dim_by_name("memory_length"),
            context.self_attention_bias,
            context,
        )

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> KeysAndValues:
        """Returns an empty cache of keys and values."""
        return self.attention.empty_cache(batch, memory_length)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at `context.position` and the cache with that position written.

        The bias must mask what lies after the position.
        """
        if context.position is None:
            raise ValueError("a step of self-attention needs context.position")
        cache, memory_length = self.attention.extend_cache(state, x, context.position)
        return self.attention(x, cache, memory_length, context.self_attention_bias, context), cache
