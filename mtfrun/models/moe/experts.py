"""Experts: feed-forward layers with a dimension of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtfrun import mtf
from mtfrun.layers import Call, Dense, DenseProduct, Dropout

Activation = Callable[[mtf.Tensor], mtf.Tensor] | None


class Experts(mtf.Module):
    """activation(x * wi) * wo with separate weights for every expert, without biases.

    wi {*expert_dims, d_model, expert_hidden}, wo {*expert_dims, expert_hidden, n}; n is d_model
    where `output_dim` is None. Several activations make a gated layer, see `DenseProduct`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        expert_dims: Sequence[mtf.Dimension],
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        hidden_size: int = 4096,
        activations: Sequence[Activation] = (mtf.relu,),
        dropout_rate: float = 0.0,
        output_dim: mtf.Dimension | None = None,
    ) -> None:
        super().__init__()
        hidden = mtf.Dimension("expert_hidden", hidden_size)
        self.output_dim = output_dim or d_model
        self.wi = DenseProduct(
            mesh, [d_model], [hidden], dtypes, expert_dims=expert_dims, activations=activations
        )
        self.dropout = Dropout(dropout_rate)
        self.wo = Dense(
            mesh, [hidden], [self.output_dim], dtypes, expert_dims=expert_dims, use_bias=False
        )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {*expert_dims, ..., n} for x {*expert_dims, ..., d_model}."""
        return self.wo(self.dropout(self.wi(x, call), call), call)

    def of_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {rows, n} for x {rows, d_model}, for experts of one dimension.

        The first sizes[0] rows belong to expert 0, and so on; rows after these give zeros.
        """
        hidden = self.dropout(self.wi.of_rows(x, sizes, call), call)
        return self.wo.of_rows(hidden, sizes, call)
