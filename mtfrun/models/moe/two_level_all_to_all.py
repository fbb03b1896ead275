"""The computation of a mixture of experts of two levels.

Level x sends tokens to expert_x; each of these is a mixture, level y, over expert_y.

    dimension          size                          meaning
    outer_batch        as the batch has it, or 1     sequences that are split as expert_y is
    groups_x           about tokens / group_size     groups of an outer batch, split as expert_x is
    group_size_x       about Capacity.group_size     tokens that compete on level x
    expert_x           num_experts[0]                experts of level x
    expert_capacity_x  by Capacity.training, ...     slots that an expert_x has for a group
    groups_y           about slots / group_size      groups of an expert_x, split as expert_y is
    group_size_y       about Capacity.group_size     slots of expert_x that compete on level y
    expert_y           num_experts[1]                experts of every expert_x
    expert_capacity_y  by Capacity.second_level      slots that an expert_y has for a group
    d_model, d_output  of the model, of the experts  a token, what an expert makes of it

A dimension whose name ends in "_unsplit" has no layout rule: every device has all of it. Where two
dimensions that one mesh axis splits are in the same tensor, one of them is unsplit, and an
all-to-all is a reshape that changes which.
"""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.experts import Experts, apply_experts
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing

# The outer batch of a batch without one: of size 1, and no layout rule splits it.
NO_OUTER_BATCH = mtf.Dimension("outer_batch_unsplit", 1)


class TwoLevelDims(NamedTuple):
    """The dimensions that depend on the number of tokens; see the table above."""

    groups_x: mtf.Dimension
    group_size_x: mtf.Dimension
    expert_capacity_x: mtf.Dimension
    groups_y: mtf.Dimension
    group_size_y: mtf.Dimension
    expert_capacity_y: mtf.Dimension

    @classmethod
    def of_sequences(
        cls,
        mesh: mtf.Mesh,
        capacity: Capacity,
        num_experts: tuple[int, int],
        sequences: tuple[mtf.Dimension, mtf.Dimension, mtf.Dimension],
        *,
        training: bool,
    ) -> TwoLevelDims:
        """Returns the dimensions for sequences (outer_batch, batch, length)."""
        outer_batch, batch, length = sequences
        num_x, num_y = num_experts
        tokens = batch.size * length.size
        groups_x = capacity.groups(mesh, batch.name, tokens)
        group_size_x = tokens // groups_x.size
        slots_x = capacity.first_level(group_size_x, num_x, training=training)
        # Of every expert_x.
        all_slots = outer_batch.size * groups_x.size * slots_x
        # A layout rule splits the groups of level y as it splits the outer batch, or would split.
        groups_y = capacity.groups(mesh, outer_batch.name.removesuffix("_unsplit"), all_slots)
        group_size_y = all_slots // groups_y.size
        slots_y = capacity.of_second_level(group_size_y, num_y)
        return cls(
            groups_x,
            mtf.Dimension("group_size_x", group_size_x),
            mtf.Dimension("expert_capacity_x", slots_x),
            groups_y,
            mtf.Dimension("group_size_y", group_size_y),
            mtf.Dimension("expert_capacity_y", slots_y),
        )

    @classmethod
    def of_step(cls, tokens: mtf.Dimension) -> TwoLevelDims:
        """Returns the dimensions of a decoding step: a token is a group, with slots everywhere."""
        groups_y = mtf.Dimension("outer_batch", tokens.size)
        group_size_x, group_size_y = (mtf.Dimension(f"group_size_{level}", 1) for level in "xy")
        capacity_x, capacity_y = (mtf.Dimension(f"expert_capacity_{level}", 1) for level in "xy")
        return cls(tokens, group_size_x, capacity_x, groups_y, group_size_y, capacity_y)


class TwoLevels(NamedTuple):
    """The output of both levels, and how tokens were routed.

    Attributes:
      output: {outer_batch, groups_x, group_size_x, d_output}.
      outer, inner: the routings of level x and of level y.
      inner_importance: {expert_x, groups_y, group_size_y} of the tokens of level y.
      slots_by_group: {expert_x_unsplit, outer_batch, groups_x, expert_capacity_x}, the slots of
        level x before the all-to-all.
      slots_by_expert: {expert_x, outer_batch, groups_x_unsplit, expert_capacity_x}, after it.
    """

    output: mtf.Tensor
    outer: Routing
    inner: Routing
    inner_importance: mtf.Tensor
    slots_by_group: mtf.Shape
    slots_by_expert: mtf.Shape

    def experts_per_token(self) -> mtf.Tensor:
        """Returns how many experts a token has: {outer_batch, groups_x, group_size_x}."""
        return mtf.add_n(self._of_choices(self.inner.experts_per_token()))

    def first_expert(self) -> mtf.Tensor:
        """{outer_batch, groups_x, group_size_x} int32, among all experts; -1 for none."""
        of_slots = mtf.to_float(self.inner.first_expert()) + 1.0  # 0 for none
        first = mtf.to_int32(mtf.zeros_like(self.outer.choices[0].dispatched)) - 1
        for choice, number in reversed(
            list(zip(self.outer.choices, self._of_choices(of_slots), strict=True))
        ):
            expert = choice.expert * self.inner.experts.size + mtf.to_int32(number) - 1
            first = mtf.where(mtf.greater(number, 0.0), expert, first)
        return first

    def _of_choices(self, of_slots: mtf.Tensor) -> list[mtf.Tensor]:
        """For each choice of level x {outer_batch, groups_x, group_size_x}; 0 without a slot."""
        of_slots = mtf.reshape(mtf.reshape(of_slots, self.slots_by_expert), self.slots_by_group)
        last_slot = self.outer.capacity.size - 1
        values = []
        for choice in self.outer.choices:
            indices = [
                (self.outer.experts, choice.expert),
                (self.outer.capacity, mtf.minimum(choice.position, last_slot)),
            ]
            shape = choice.dispatched.shape
            values.append(choice.dispatched * mtf.gather_rows(of_slots, indices, shape))
        return values


def two_levels(
    x: mtf.Tensor,
    importance: mtf.Tensor | None,
    dims: TwoLevelDims,
    outer_router: Router,
    inner_router: Router,
    experts: Experts,
    dispatch: Dispatch,
    call: Call,
) -> TwoLevels:
    """Returns the outputs for x {outer_batch, groups_x, group_size_x, d_model}.

    Experts have the dimensions (expert_y, expert_x). An importance of None is 1 everywhere.
    """
    outer_batch, groups_x, group_size_x, d_model = x.shape.dims
    _, _, expert_capacity_x, groups_y, group_size_y, expert_capacity_y = dims
    d_output = experts.output_dim

    # Level x: the tokens of a group compete for the slots of expert_x.
    outer = outer_router(x, group_size_x, expert_capacity_x, importance, call)
    expert_x_unsplit, expert_x = outer.experts, mtf.Dimension("expert_x", outer.experts.size)
    groups_x_unsplit = mtf.Dimension(f"{groups_x.name}_unsplit", groups_x.size)
    slots_by_group = mtf.Shape([expert_x_unsplit, outer_batch, groups_x, expert_capacity_x])
    slots_by_expert = mtf.Shape([expert_x, outer_batch, groups_x_unsplit, expert_capacity_x])
    # {expert_x_unsplit, outer_batch, groups_x, expert_capacity_x, d_model}
    slots_x = dispatch.to_slots(x, outer, slots_by_group + d_model)
    # {expert_x_unsplit, outer_batch, groups_x, expert_capacity_x}
    gates = dispatch.gates_of_slots(outer, slots_by_group, x)
    # The larger choice of a token may have two experts of level y, the other choice one.
    above_half = mtf.to_float(mtf.greater(gates, 0.5))
    importance_x = 0.5 * (above_half + mtf.to_float(mtf.greater(gates, 0.0)))

    # First all-to-all, from groups_x to expert_x; then new groups, of all slots of an expert_x.
    tokens_y = mtf.Shape([expert_x, groups_y, group_size_y])
    # {expert_x, groups_y, group_size_y, d_model} and {expert_x, groups_y, group_size_y}
    y = mtf.reshape(mtf.reshape(slots_x, slots_by_expert + d_model), tokens_y + d_model)
    inner_importance = mtf.reshape(mtf.reshape(importance_x, slots_by_expert), tokens_y)

    # Level y: the tokens of these groups compete for the slots of expert_y.
    inner = inner_router(y, group_size_y, expert_capacity_y, inner_importance, call)
    expert_y_unsplit, expert_y = inner.experts, mtf.Dimension("expert_y", inner.experts.size)
    shape_y = mtf.Shape([expert_y_unsplit, expert_x, groups_y, expert_capacity_y, d_model])
    slots_y = dispatch.to_slots(y, inner, shape_y)
    # Second all-to-all, from groups_y to expert_y, and the third, back.
    # {expert_y_unsplit, expert_x, groups_y, expert_capacity_y, d_output}
    slots_y = apply_experts(experts, slots_y, expert_y, groups_y, call)
    # {expert_x, groups_y, group_size_y, d_output}
    y = dispatch.to_tokens(slots_y, inner, tokens_y + d_output)

    # Fourth all-to-all, from expert_x to groups_x.
    # {expert_x_unsplit, outer_batch, groups_x, expert_capacity_x, d_output}
    slots_x = mtf.reshape(mtf.reshape(y, slots_by_expert + d_output), slots_by_group + d_output)
    # {outer_batch, groups_x, group_size_x, d_output}
    output = dispatch.to_tokens(slots_x, outer, x.shape - d_model + d_output)
    return TwoLevels(output, outer, inner, inner_importance, slots_by_group, slots_by_expert)
