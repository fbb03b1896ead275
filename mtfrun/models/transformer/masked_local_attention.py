"""Tensor2Tensor's local attention as a sublayer, for its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.layers import (
    AttentionParameters,
    Context,
    KeysAndValues,
    Sublayer,
    masked_local_attention_1d,
    masked_local_attention_1d_incremental,
)


class MaskedLocalAttention(Sublayer):
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
        super().__init__()
        self._mesh = mesh
        self._window = window
        self._dtypes = dtypes
        heads, kv = mtf.Dimension("heads", num_heads), mtf.Dimension("d_kv", d_kv)
        self.parameters = AttentionParameters(mesh, heads, d_model, kv, dtypes)

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        return masked_local_attention_1d(x, self.parameters(), self._window)[0]

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> KeysAndValues:
        """Returns an empty ring of `window` keys and values."""
        heads, _, kv = self.parameters.wq.shape
        shape = [*batch, heads, mtf.Dimension("window_length", self._window), kv]
        zeros = mtf.zeros(self._mesh, shape, self._dtypes.activation)
        return KeysAndValues(zeros, zeros)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at `context.position` and the ring with that position written."""
        if context.position is None:
            raise ValueError("a step of local attention needs context.position")
        y, k, v = masked_local_attention_1d_incremental(
            x, *state, context.position, self.parameters()
        )
        return y, KeysAndValues(k, v)
