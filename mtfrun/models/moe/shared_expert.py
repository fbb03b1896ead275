"""An expert for all tokens, beside a mixture."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers import Call, Dense
from mtfrun.models.transformer.feedforward import GatedFeedForward


class SharedExpert(GatedFeedForward):
    """`GatedFeedForward` times a sigmoid of the token: of Qwen1.5-MoE, Qwen Team 2024.

    With a mixture in `huggingface.Parallel` its output is added to the chosen experts' output; Dai
    et al. 2024, arXiv:2401.06066, section 3.2, where a plain `GatedFeedForward` has this place.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        d_ff: int = 2048,
        activation: Callable[[mtf.Tensor], mtf.Tensor] = mtf.swish,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__(
            mesh, d_model, dtypes, d_ff=d_ff, activation=activation, dropout_rate=dropout_rate
        )
        self.gate = Dense(mesh, [d_model], [], dtypes, use_bias=False, activation=mtf.sigmoid)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return mtf.multiply(super().__call__(x, call), self.gate(x, call), output_shape=x.shape)
