"""Self-attention to the nearest positions only."""

from __future__ import annotations

from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import (
    MASKED,
    AttentionHeads,
    Context,
    KeysAndValues,
    ring_of,
    ring_positions,
    write_to_ring,
)
from mtfrun.models.transformer.self_attention import RelativeBiasClass, SelfAttention


class LocalSelfAttention(SelfAttention):
    """Self-attention to positions less than `window` away; Luong et al. 2015, arXiv:1508.04025.

    Over whole rows the mask does it, so they cost as much as with `SelfAttention`. Steps keep the
    last `window` positions only, in a ring, and cost as much as that.

    Args:
      window: how many positions a causal query sees, its own included.
      others: see `SelfAttention`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        window: int = 128,
        heads: AttentionHeads = AttentionHeads(),
        rotary: bool = False,
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(
            mesh,
            d_model,
            dtypes,
            heads=heads,
            rotary=rotary,
            relative_bias=relative_bias,
            dropout_rate=dropout_rate,
        )
        if window < 1:
            raise InputError(f"window={window} must be at least 1")
        self._window = window

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> KeysAndValues:
        """Returns an empty ring of keys and values."""
        places = min(self._window, memory_length.size)
        return self.attention.empty_cache(batch, mtf.Dimension("window_length", places))

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at `context.position` and the ring with that position written."""
        position = context.position
        if position is None:
            raise InputError("a step of self-attention needs context.position")
        window = state.keys.shape.get_dim_by_name("window_length")
        entries = self.attention.keys_and_values(x, position)
        written = (
            write_to_ring(m, e, window, position, context.is_new())
            for m, e in zip(state, entries, strict=True)
        )
        ring = KeysAndValues(*written)
        bias = self._ring_bias(window, position, context)
        return self.attention(x, ring, window, bias, context), ring

    def prefill(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output for whole rows and the ring after them."""
        y, memory = super().prefill(x, state, context)
        length = memory.keys.shape.get_dim_by_name("memory_length")
        number = context.number_known()
        rings = (ring_of(m, length, number, state.keys.shape) for m in memory)
        return y, KeysAndValues(*rings)

    def _ring_bias(
        self, window: mtf.Dimension, position: mtf.Tensor, context: Context
    ) -> mtf.Tensor:
        """Returns {window_length}, with heads where they differ: what is added to a step's logits.

        The context's bias is that of the positions 0, 1, ...
        """
        positions = ring_positions(window, position)
        bias = mtf.to_float(mtf.less(positions, 0)) * MASKED
        if context.self_attention_bias is not None:
            given = context.self_attention_bias
            memory_length = given.shape.get_dim_by_name("memory_length")
            shape = [*(given.shape - memory_length), window]
            given = mtf.gather(given, positions, memory_length, output_shape=shape)
            bias = given + mtf.cast(bias, given.dtype)
        if self.relative_bias is not None:
            of_distance = self.relative_bias(position, positions, context.bidirectional)
            bias = of_distance + mtf.to_float(bias)
        return bias

    def _bias(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns what is added to the logits of positions whose memory are all positions."""
        bias = super()._bias(x, context)
        positions = context.positions(x)
        length = positions.shape.size
        memory_length = mtf.Dimension("memory_length", length)
        if bias is not None:
            memory_length = bias.shape.get_dim_by_name("memory_length")
        distance = mtf.sub(
            positions,
            mtf.range(x.mesh, memory_length),
            output_shape=[*positions.shape, memory_length],
        )
        far = mtf.to_float(mtf.greater_equal(mtf.abs(distance), self._window)) * MASKED
        return far if bias is None else bias + mtf.cast(far, bias.dtype)
