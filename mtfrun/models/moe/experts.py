"""Experts: feed-forward layers with a dimension of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtfrun import mtf
from mtfrun.layers import Call, Dense, DenseProduct, Dropout

Activation = Callable[[mtf.Tensor], mtf.Tensor] | None


class Experts(mtf.Module):
    """activation(x * wi) * wo with separate weights for every expert, without biases.

    wi {*expert_dims, d_model, expert_hidden}, wo {*expert_dims, expert_hidden, n}. `output_dims`
    has n; () for d_model. Several have a wo each, by name; their outputs are concatenated along
    `output_dim`. Several activations make a gated layer, see `DenseProduct`.
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
        output_dims: Sequence[mtf.Dimension] = (),
    ) -> None:
        super().__init__()
        outputs = list(output_dims) or [d_model]
        self._hidden = mtf.Dimension("expert_hidden", hidden_size)
        hidden = [self._hidden]
        self.output_dim = outputs[0]
        if len(outputs) > 1:
            # A name without a layout rule.
            self.output_dim = mtf.Dimension("expert_outputs", sum(dim.size for dim in outputs))
        self.wi = DenseProduct(
            mesh, [d_model], hidden, dtypes, expert_dims=expert_dims, activations=activations
        )
        self.dropout = Dropout(dropout_rate)
        wo = {
            dim.name: Dense(mesh, hidden, [dim], dtypes, expert_dims=expert_dims, use_bias=False)
            for dim in outputs
        }
        self.wo = wo if len(outputs) > 1 else wo[outputs[0].name]
        self._outputs = list(wo.values())

    def __call__(self, x: mtf.Tensor, call: Call, *, mask: mtf.Tensor | None = None) -> mtf.Tensor:
        """Returns {*expert_dims, ..., n} for x {*expert_dims, ..., d_model}.

        mask {*expert_dims, expert_hidden}: multiplies the hidden units.
        """
        hidden = _times(self.dropout(self.wi(x, call), call), mask)
        return self._join([wo(hidden, call) for wo in self._outputs])

    def map_rows(
        self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call, mask: mtf.Tensor | None = None
    ) -> mtf.Tensor:
        """Returns {rows, n} for x {rows, d_model}, for experts of one dimension.

        The first sizes[0] rows belong to expert 0, and so on; rows after these give zeros. mask:
        {rows, expert_hidden}.
        """
        hidden = _times(self.dropout(self.wi.map_rows(x, sizes, call), call), mask)
        return self._join([wo.map_rows(hidden, sizes, call) for wo in self._outputs])

    def _join(self, outputs: Sequence[mtf.Tensor]) -> mtf.Tensor:
        if len(outputs) == 1:
            return outputs[0]
        name = self.output_dim.name
        return mtf.concat([mtf.rename_dimension(y, y.shape[-1].name, name) for y in outputs], name)


def _times(hidden: mtf.Tensor, mask: mtf.Tensor | None) -> mtf.Tensor:
    if mask is None:
        return hidden
    return mtf.multiply(hidden, mtf.cast(mask, hidden.dtype), output_shape=hidden.shape)
