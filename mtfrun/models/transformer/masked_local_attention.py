"""Tensor2Tensor's local attention as a sublayer, for its checkpoints."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import (
    Context,
    KeysAndValues,
    masked_local_attention_1d,
    masked_local_attention_1d_by_steps,
    masked_local_attention_1d_incremental,
    ring_of,
)
from mtfrun.models.transformer.projected_attention import ProjectedAttention


class MaskedLocalAttention(ProjectedAttention):
    """Causal attention in blocks; see `masked_local_attention_1d`.

    As in the original, decoding step by step is another attention than the one over whole rows: it
    sees the last `window` positions, where a row sees the block as well. For new models take
    `LocalSelfAttention`. Segments of packed rows are not kept apart.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_heads: int = 8,
        d_kv: int = 64,
        window: int = 128,
    ) -> None:
        """Makes the projections; `window` is how far a block looks back."""
        super().__init__(mesh, d_model, dtypes, num_heads=num_heads, d_kv=d_kv)
        self._window = window

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        return masked_local_attention_1d(x, self.parameters(), self._window)[0]

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output of steps for whole rows, and the ring after them."""
        y, *memory = masked_local_attention_1d_by_steps(x, self.parameters(), self._window)
        length = x.shape.get_dim_by_name("length")
        number = context.number_known()
        rings = (ring_of(m, length, number, state.keys.shape) for m in memory)
        return y, KeysAndValues(*rings)

    def _remembered(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        """Returns a ring of `window` places: those that are not yet written are seen as well."""
        return mtf.Dimension("window_length", self._window)

    def _attend_once(
        self,
        x: mtf.Tensor,
        memory: KeysAndValues,
        position: mtf.Tensor,
        condition: mtf.Tensor | None,
    ) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        return masked_local_attention_1d_incremental(
            x, *memory, position, self.parameters(), condition
        )
