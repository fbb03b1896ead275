"""What a mixture of experts of one level computes."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import Context
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.routing import Routing


def one_level(
    x: mtf.Tensor, routing: Routing, experts: Experts, dispatch: Dispatch, context: Context
) -> mtf.Tensor:
    """Returns the weighted outputs of the experts of every token: {outer..., groups, group, n}.

    Lepikhin et al. 2020, arXiv:2006.16668, algorithm 2.

    Args:
      x: {outer..., groups, group, d_model}.
      routing: of x.
      experts: with one expert dimension "experts".
      dispatch: moves rows.
      context: the call.
    """
    *outer, groups, group, d_model = x.shape.dims
    n = experts.output_dim
    unsplit, capacity = routing.experts, routing.capacity
    split = mtf.Dimension("experts", unsplit.size)
    here = unsplit_along(x.mesh, groups, split)
    slots = dispatch.to_slots(x, routing, mtf.Shape([unsplit, *outer, groups, capacity, d_model]))
    # All-to-all: the split moves from the groups to the experts.
    slots = mtf.reshape(slots, [split, *outer, here, capacity, d_model])
    slots = experts(slots, context)
    slots = mtf.reshape(slots, [unsplit, *outer, groups, capacity, n])
    return dispatch.to_tokens(slots, routing, mtf.Shape([*outer, groups, group, n]))


def unsplit_along(mesh: mtf.Mesh, dim: mtf.Dimension, taker: mtf.Dimension) -> mtf.Dimension:
    """Returns `dim` under a name without a layout rule if `taker` is on its mesh axis."""
    axis = mesh.axis_of(taker)
    if axis is None or axis != mesh.axis_of(dim):
        return dim
    return mtf.Dimension(f"{dim.name}_unsplit", dim.size)
