"""Self-attention to the nearest positions only."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import MASKED, Context
from mtfrun.models.transformer.self_attention import RelativeBiasClass, SelfAttention


class LocalSelfAttention(SelfAttention):
    """Self-attention to positions less than `window` away; Luong et al. 2015, arXiv:1508.04025.

    The mask does it, so a row costs as much as with `SelfAttention`.

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
        num_heads: int = 8,
        num_memory_heads: int | None = None,
        d_kv: int = 64,
        rotary: bool = False,
        relative_bias: RelativeBiasClass | None = None,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(
            mesh,
            d_model,
            dtypes,
            num_heads=num_heads,
            num_memory_heads=num_memory_heads,
            d_kv=d_kv,
            rotary=rotary,
            relative_bias=relative_bias,
            dropout_rate=dropout_rate,
        )
        if window < 1:
            raise ValueError(f"window={window} must be at least 1")
        self._window = window

    def _bias(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
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
