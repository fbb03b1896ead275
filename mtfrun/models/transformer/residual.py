"""What surrounds a sublayer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.layers import Context, Dropout, Sublayer

# Made as `norm_class(mesh, d_model, dtypes)`.
NormClass = Callable[..., Callable[[mtf.Tensor], mtf.Tensor]]


class Residual(Sublayer):
    """x + dropout(layer(norm(x))): the order of Xiong et al. 2020, arXiv:2002.04745, figure 1b."""

    def __init__(
        self,
        layer: Sublayer,
        norm: Callable[[mtf.Tensor], mtf.Tensor],
        dropout_rate: float = 0.0,
    ) -> None:
        """Takes the sublayer, the normalisation before it and the dropout rate after it."""
        super().__init__()
        self.norm = norm
        self.layer = layer
        self.dropout = Dropout(dropout_rate)

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {..., length, d_model} for x of the same shape."""
        return self._after(x, self.layer(self._before(x), context), context)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> Any:
        """Returns that of the layer."""
        return self.layer.initial_state(batch, memory_length, context)

    def step(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns the output at one position and the layer's next state."""
        y, state = self.layer.step(self._before(x), state, context)
        return self._after(x, y, context), state

    def prefill(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns the output for whole sequences and the layer's state after them."""
        y, state = self.layer.prefill(self._before(x), state, context)
        return self._after(x, y, context), state

    def _before(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns what the layer gets."""
        return self.norm(x)

    def _after(self, x: mtf.Tensor, y: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns what the next sublayer gets; y: what the layer made."""
        return x + self.dropout(y, context)


class PostNormResidual(Residual):
    """norm(x + dropout(layer(x))): the order of Vaswani et al. 2017, arXiv:1706.03762."""

    def _before(self, x: mtf.Tensor) -> mtf.Tensor:
        return x

    def _after(self, x: mtf.Tensor, y: mtf.Tensor, context: Context) -> mtf.Tensor:
        return self.norm(super()._after(x, y, context))


# Made as `residual_class(layer, norm, dropout_rate)`.
ResidualClass = Callable[..., Residual]
