"""What a mixture of experts of two levels computes."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf
from mtfrun.layers import Context
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.one_level import unsplit_along
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing
from mtfrun.models.moe.two_level_sizes import Sizes


class TwoLevels(NamedTuple):
    """What both levels did.

    Args:
      output: {outer_batch, groups_x, group_x, n}.
      outer, inner: the routings.
      inner_importance: {expert_x, groups_y, group_y} of the tokens of the second level.
      unmoved: the shape {expert_x_unsplit, outer_batch, groups_x, capacity_x} of the first level's
        slots before they move.
      moved: the same slots {expert_x, outer_batch, groups_x, capacity_x} where they are then.
    """

    output: mtf.Tensor
    outer: Routing
    inner: Routing
    inner_importance: mtf.Tensor
    unmoved: mtf.Shape
    moved: mtf.Shape

    def visits(self) -> mtf.Tensor:
        """Returns the number of experts that a token visits: {outer_batch, groups_x, group_x}."""
        of_slots = mtf.add_n([choice.kept for choice in self.inner.choices])
        of_slots = mtf.reshape(mtf.reshape(of_slots, self.moved), self.unmoved)
        return mtf.add_n(
            [
                choice.kept
                * mtf.gather_rows(
                    of_slots,
                    [
                        (self.outer.experts, choice.expert),
                        (
                            self.outer.capacity,
                            mtf.minimum(choice.position, self.outer.capacity.size - 1),
                        ),
                    ],
                    choice.kept.shape,
                )
                for choice in self.outer.choices
            ]
        )


def two_levels(
    x: mtf.Tensor,
    importance: mtf.Tensor | None,
    sizes: Sizes,
    outer_router: Router,
    inner_router: Router,
    experts: Experts,
    dispatch: Dispatch,
    context: Context,
) -> TwoLevels:
    """Returns the weighted outputs of the experts of every token, and how they were chosen.

    Args:
      x: {outer_batch, groups_x, group_x, d_model}.
      importance: {outer_batch, groups_x, group_x}; None where all is 1.
      sizes: of the groups.
      outer_router, inner_router: choose on the first and on the second level.
      experts: with the dimensions (expert_y, expert_x).
      dispatch: moves rows.
      context: the call.
    """
    a, g, s, m = x.shape.dims
    n = experts.output_dim
    h, t, c, d = sizes.groups_y, sizes.group_y, sizes.capacity_x, sizes.capacity_y

    outer = outer_router(x, s, c, importance, context)
    x_unsplit = outer.experts
    x_split = mtf.Dimension("expert_x", x_unsplit.size)
    unmoved = mtf.Shape([x_unsplit, a, g, c])
    moved = mtf.Shape([x_split, a, mtf.Dimension(f"{g.name}_unsplit", g.size), c])
    inputs = dispatch.to_slots(x, outer, unmoved + m)
    weight = dispatch.gates_of_slots(outer, unmoved, x)
    half_steps = mtf.to_float(mtf.greater(weight, 0.5)) + mtf.to_float(mtf.greater(weight, 0.0))

    # The first all-to-all: the split moves from the groups to expert_x. Then groups of tokens that
    # come from anywhere.
    inputs = mtf.reshape(mtf.reshape(inputs, moved + m), [x_split, h, t, m])
    inner_importance = mtf.reshape(mtf.reshape(0.5 * half_steps, moved), [x_split, h, t])

    inner = inner_router(inputs, t, d, inner_importance, context)
    y_unsplit = inner.experts
    y_split = mtf.Dimension("expert_y", y_unsplit.size)
    slots = dispatch.to_slots(inputs, inner, mtf.Shape([y_unsplit, x_split, h, d, m]))
    # The second: from these groups to expert_y.
    slots = mtf.reshape(slots, [y_split, x_split, unsplit_along(x.mesh, h, y_split), d, m])
    slots = experts(slots, context)

    slots = mtf.reshape(slots, [y_unsplit, x_split, h, d, n])
    outputs = dispatch.to_tokens(slots, inner, mtf.Shape([x_split, h, t, n]))
    outputs = mtf.reshape(mtf.reshape(outputs, moved + n), unmoved + n)
    output = dispatch.to_tokens(outputs, outer, mtf.Shape([a, g, s, n]))
    return TwoLevels(output, outer, inner, inner_importance, unmoved, moved)
