"""Experts: feed-forward layers with a dimension of experts, and expert parallelism."""

from __future__ import annotations

import dataclasses
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


def apply_experts(
    experts: Experts,
    slots: mtf.Tensor,
    expert: mtf.Dimension,
    groups: mtf.Dimension,
    call: Call,
    noise: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns the outputs {expert_unsplit, ..., groups, ..., n} of the experts for their slots.

    The two reshapes before and after the experts move the split between groups and experts, which
    is an all-to-all where both are on the same mesh axis. Lepikhin et al. 2020, arXiv:2006.16668,
    algorithm 2.

    Args:
      slots: {expert_unsplit, ..., groups, ..., d_model}; the first dimension has no layout rule.
      groups: the dimension of the groups that share the mesh axis with the experts.
      noise: {expert_unsplit, ..., groups, ...} int32, the numbers that seed dropout in the experts;
        None for the slots' indices.
    """
    expert_unsplit, *others, _ = slots.shape.dims
    axis = slots.mesh.axis_of(expert)
    moved_groups = groups
    if axis is not None and axis == slots.mesh.axis_of(groups):
        # Under a name without a layout rule: every device has the slots of all groups then.
        moved_groups = mtf.Dimension(f"{groups.name}_unsplit", groups.size)
    moved = [expert, *(moved_groups if dim == groups else dim for dim in slots.shape.dims[1:])]
    if noise is not None and call.key is not None:
        key = call.key.fold_in(mtf.reshape(noise, moved[:-1]))
        call = dataclasses.replace(call, key=key)
    outputs = experts(mtf.reshape(slots, moved), call)
    return mtf.reshape(outputs, [expert_unsplit, *others, experts.output_dim])
