"""Self-attention as a sublayer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import (
    AttentionHeads,
    Context,
    KeysAndValues,
    MultiHeadAttention,
    RelativePositionBias,
    Sublayer,
)

# Made as `relative_bias_class(mesh, dtypes)`.
RelativeBiasClass = Callable[..., RelativePositionBias]


class SelfAttention(Sublayer):
    """Every position attends to those that the context's `self_attention_bias` leaves open."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool = False,
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        """Makes the projections; see `MultiHeadAttention`.

        `relative_bias` is a class, called as `relative_bias(mesh, dtypes)`, for logits by distance
        of this layer alone; a `Stack` can have one for all layers.
        """
        super().__init__()
        self.attention = MultiHeadAttention(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            rotary=rotary,
            dropout_rate=dropout_rate,
        )
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        return self._attend(x, context)[0]

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
            raise InputError("a step of self-attention needs context.position")
        cache, memory_length = self.attention.extend_cache(
            state, x, context.position, context.is_new()
        )
        return self.attention(x, cache, memory_length, self._bias(x, context), context), cache

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output for whole rows and their keys and values."""
        return self._attend(x, context)

    def _attend(self, x: mtf.Tensor, context: Context) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output for whole rows, and their keys and values."""
        memory = mtf.rename_dimension(x, "length", "memory_length")
        memory_length = memory.shape.get_dim_by_name("memory_length")
        known = self.attention.keys_and_values(memory)
        return self.attention(x, known, memory_length, self._bias(x, context), context), known

    def _bias(self, x: mtf.Tensor, context: Context) -> mtf.Tensor | None:
        """Returns what is added to the logits of x, whole rows or one position."""
        if self.relative_bias is not None:
            context = self.relative_bias.added_to(context, x)
        return context.self_attention_bias
