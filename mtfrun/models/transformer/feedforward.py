"""Feed-forward sublayers: two linear maps with a non-linearity between them."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers import Call, Dense, Dropout
from mtfrun.models.transformer.sublayer import Sublayer


class FeedForward(Sublayer):
    """activation(x * wi) * wo; Vaswani et al. 2017, arXiv:1706.03762, eq. 2."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        d_ff: int = 2048,
        activation: Callable[[mtf.Tensor], mtf.Tensor] = mtf.relu,
        use_bias: bool = False,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = mtf.Dimension("d_ff", d_ff)
        self.wi = Dense(mesh, [d_model], [hidden], dtypes, use_bias=use_bias, activation=activation)
        self.dropout = Dropout(dropout_rate)
        self.wo = Dense(mesh, [hidden], [d_model], dtypes, use_bias=use_bias)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return self.wo(self.dropout(self.wi(x, call), call), call)


class GatedFeedForward(Sublayer):
    """(activation(x * wi_0) . (x * wi_1)) * wo; Shazeer 2020, arXiv:2002.05202, eq. 6.

    GEGLU by default; mtf.swish gives SwiGLU, mtf.sigmoid GLU.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        d_ff: int = 2048,
        activation: Callable[[mtf.Tensor], mtf.Tensor] = mtf.gelu,
        use_bias: bool = False,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = mtf.Dimension("d_ff", d_ff)
        self.wi_0 = Dense(
            mesh, [d_model], [hidden], dtypes, use_bias=use_bias, activation=activation
        )
        self.wi_1 = Dense(mesh, [d_model], [hidden], dtypes, use_bias=use_bias)
        self.dropout = Dropout(dropout_rate)
        self.wo = Dense(mesh, [hidden], [d_model], dtypes, use_bias=use_bias)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        hidden = self.wi_0(x, call) * self.wi_1(x, call)
        return self.wo(self.dropout(hidden, call), call)


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
