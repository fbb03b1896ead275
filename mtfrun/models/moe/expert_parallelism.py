"""The experts on the devices that hold them: an all-to-all there and one back."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.experts import Experts


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
