"""A mixture of experts of two levels, as a sublayer.

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

A dimension named "..._unsplit" has no layout rule: every device has all of it. Where a tensor has
two dimensions with rules for the same mesh axis, one of them is unsplit; an all-to-all is a reshape
that changes which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.moe import dispatch
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.mixture import CapacityMixture, importance_of_tokens, shares_of
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing
from mtfrun.models.transformer.sublayer import SequenceCall

# The outer batch of a batch without one: of size 1, and no layout rule splits it.
_NO_OUTER_BATCH = mtf.Dimension("outer_batch_unsplit", 1)


class MoE2D(CapacityMixture):
    """Every token is dispatched to a few groups of experts, and to a few experts in each group.

    Shazeer et al. 2017, arXiv:1701.06538, appendix B. The first level chooses among expert_x, the
    second, with a router for every expert_x, among expert_y. A token's first
    choice on the first level may go to two experts there, its second choice to one: a token has up
    to three experts.

    On a mesh of two axes: batch and expert_x on one axis, outer_batch and expert_y on the other;
    tokens move by all-to-alls over one axis at a time. Without an outer batch every device of its
    axis computes the first level.

    Args:
      experts, loss_coef: see `MoE1D`.
      num_experts: (expert_x, expert_y).
      routers: one for each level; the second is called with `outer_experts` as well.
      capacity: see `MoE1D`; `second_level` is the factor of the second level.
    """

    short_name = "moe_2d"

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_experts: Sequence[int] = (4, 4),
        routers: Sequence[Callable[..., Router]] = (Router, Router),
        experts: Callable[..., Experts] = Experts,
        capacity: Capacity = Capacity(),
        loss_coef: float = 1e-2,
    ) -> None:
        for name, values in (("num_experts", num_experts), ("routers", routers)):
            if len(values) != 2:
                raise InputError(f"MoE2D.{name}={values!r} must be two, one for each level")
        num_x, num_y = num_experts
        levels = {"level_1": num_x, "level_2": num_x * num_y}
        super().__init__(mesh, d_model, loss_coef=loss_coef, experts_of_levels=levels)
        self._capacity = capacity
        self._expert_x = mtf.Dimension("expert_x", num_x)
        self._expert_y = mtf.Dimension("expert_y", num_y)
        expert_x_unsplit = mtf.Dimension("expert_x_unsplit", num_x)
        expert_y_unsplit = mtf.Dimension("expert_y_unsplit", num_y)
        self.outer_router = routers[0](mesh, d_model, expert_x_unsplit, dtypes)
        self.inner_router = routers[1](
            mesh, d_model, expert_y_unsplit, dtypes, outer_experts=[self._expert_x]
        )
        self.experts = experts(mesh, [self._expert_y, self._expert_x], d_model, dtypes)

    @property
    def active_shares(self) -> Mapping[mtf.Variable, float]:
        """Returns the largest active shares of the experts and of the inner router.

        A token's first choice on the first level has all experts that the second level's gate
        chooses, each other choice one.
        """
        num_x, num_y = self._expert_x.size, self._expert_y.size
        outer = self.outer_router.experts_per_token(self._capacity.training)
        inner = self.inner_router.experts_per_token(self._capacity.second_level)
        experts = inner + max(0.0, outer - 1.0)
        return {
            **shares_of(self.inner_router, outer / num_x),
            **shares_of(self.experts, min(1.0, experts / (num_x * num_y))),
        }

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {[outer,] batch, length, n} for x {..., d_model}; n: the experts' output."""
        *outer, batch, length, _ = x.shape.dims
        (outer_batch,) = outer or [_NO_OUTER_BATCH]
        capacity, tokens = self._capacity, batch.size * length.size
        groups_x = capacity.groups(self._mesh, batch.name, tokens)
        group_size_x = tokens // groups_x.size
        phase = "training" if call.training else "evaluation"
        slots_x = capacity.slots(phase, group_size_x, self._expert_x.size)
        # Of every expert_x.
        all_slots = outer_batch.size * groups_x.size * slots_x
        # A layout rule splits the groups of level y as it splits the outer batch, or would split.
        groups_y = capacity.groups(self._mesh, outer_batch.name.removesuffix("_unsplit"), all_slots)
        group_size_y = all_slots // groups_y.size
        slots_y = capacity.slots("second_level", group_size_y, self._expert_y.size)
        dims = _TwoLevelDims(
            groups_x,
            mtf.Dimension("group_size_x", group_size_x),
            mtf.Dimension("expert_capacity_x", slots_x),
            groups_y,
            mtf.Dimension("group_size_y", group_size_y),
            mtf.Dimension("expert_capacity_y", slots_y),
        )
        shape = mtf.Shape([outer_batch, dims.groups_x, dims.group_size_x])
        inputs = mtf.reshape(x, shape + self._d_model)
        y = self._mixture(inputs, importance_of_tokens(call, shape), dims, call)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Every token is a group, with slots everywhere; gates must not draw random numbers."""
        tokens = mtf.combined_dimension(x.shape.dims[:-1])
        one = {
            name: mtf.Dimension(name, 1)
            for name in _TwoLevelDims._fields
            if not name.startswith("groups")
        }
        dims = _TwoLevelDims(
            groups_x=tokens, groups_y=mtf.Dimension("outer_batch", tokens.size), **one
        )
        inputs = mtf.reshape(x, [_NO_OUTER_BATCH, tokens, dims.group_size_x, self._d_model])
        return mtf.reshape(self._mixture(inputs, None, dims, call), self._output_shape(x)), state

    def _mixture(
        self, x: mtf.Tensor, importance: mtf.Tensor | None, dims: _TwoLevelDims, call: SequenceCall
    ) -> mtf.Tensor:
        """Returns the mixture for x {outer_batch, groups_x, group_size_x, d_model}.

        An importance of None is 1 everywhere.
        """
        outer_batch, groups_x, group_size_x, d_model = x.shape.dims
        _, _, expert_capacity_x, groups_y, group_size_y, expert_capacity_y = dims
        expert_x, expert_y, d_output = self._expert_x, self._expert_y, self.experts.output_dim

        # Level x: the tokens of a group compete for the slots of expert_x.
        outer = self.outer_router(x, group_size_x, expert_capacity_x, importance, call)
        groups_x_unsplit = mtf.Dimension(f"{groups_x.name}_unsplit", groups_x.size)
        slots_by_group = mtf.Shape([outer.experts, outer_batch, groups_x, expert_capacity_x])
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
        importance_y = mtf.reshape(mtf.reshape(importance_x, slots_by_expert), tokens_y)

        # Level y: the tokens of these groups compete for the slots of expert_y.
        inner = self.inner_router(y, group_size_y, expert_capacity_y, importance_y, call)
        shape_y = mtf.Shape([inner.experts, expert_x, groups_y, expert_capacity_y, d_model])
        slots_y = dispatch.to_slots(y, inner, shape_y)
        # Second all-to-all, from groups_y to expert_y, and the third, back.
        # {expert_y_unsplit, expert_x, groups_y, expert_capacity_y, d_output}
        slots_y = dispatch.apply_experts(self.experts, slots_y, expert_y, groups_y, call)
        # {expert_x, groups_y, group_size_y, d_output}
        y = dispatch.to_tokens(slots_y, inner, tokens_y + d_output)

        # Fourth all-to-all, from expert_x to groups_x.
        # {expert_x_unsplit, outer_batch, groups_x, expert_capacity_x, d_output}
        slots_x = mtf.reshape(mtf.reshape(y, slots_by_expert + d_output), slots_by_group + d_output)
        routing = _TwoLevelRouting(outer, inner, slots_by_group, slots_by_expert)
        levels = {"level_1": (outer, importance), "level_2": (inner, importance_y)}
        self._report(levels, routing, call)
        # {outer_batch, groups_x, group_size_x, d_output}
        return dispatch.to_tokens(slots_x, outer, x.shape - d_model + d_output)


class _TwoLevelDims(NamedTuple):
    """The dimensions that depend on the number of tokens; see the table above."""

    groups_x: mtf.Dimension
    group_size_x: mtf.Dimension
    expert_capacity_x: mtf.Dimension
    groups_y: mtf.Dimension
    group_size_y: mtf.Dimension
    expert_capacity_y: mtf.Dimension


class _TwoLevelRouting(NamedTuple):
    """How both levels together route tokens {outer_batch, groups_x, group_size_x}.

    Attributes:
      slots_by_group: {expert_x_unsplit, outer_batch, groups_x, expert_capacity_x}, the slots of
        level x before the all-to-all.
      slots_by_expert: {expert_x, outer_batch, groups_x_unsplit, expert_capacity_x}, after it.
    """

    outer: Routing
    inner: Routing
    slots_by_group: mtf.Shape
    slots_by_expert: mtf.Shape

    def experts_per_token(self) -> mtf.Tensor:
        return mtf.add_n(self._by_choice(self.inner.experts_per_token()))

    def first_expert(self) -> mtf.Tensor:
        numbers = self._by_choice(mtf.to_float(self.inner.first_expert()) + 1.0)  # 0: no expert
        first = mtf.to_int32(mtf.zeros_like(self.outer.choices[0].dispatched)) - 1
        for choice, number in reversed(list(zip(self.outer.choices, numbers, strict=True))):
            expert = choice.expert * self.inner.experts.size + mtf.to_int32(number) - 1
            first = mtf.where(mtf.greater(number, 0.0), expert, first)
        return first

    def _by_choice(self, values: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns the values of slots for each choice of level x; 0 for a token without a slot."""
        values = mtf.reshape(mtf.reshape(values, self.slots_by_expert), self.slots_by_group)
        last_slot = self.outer.capacity.size - 1
        return [
            choice.dispatched
            * mtf.gather_rows(
                values,
                [
                    (self.outer.experts, choice.expert),
                    (self.outer.capacity, mtf.minimum(choice.position, last_slot)),
                ],
                choice.dispatched.shape,
            )
            for choice in self.outer.choices
        ]
