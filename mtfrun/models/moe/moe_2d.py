"""A mixture of experts of two levels, as a sublayer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun import mtf
from mtfrun.layers import Auxiliary, Context, Sublayer
from mtfrun.models.moe.capacity import Capacity, check_groups, num_groups
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.experts import Activation, Experts
from mtfrun.models.moe.gate import Gate
from mtfrun.models.moe.gather_dispatch import GatherDispatch
from mtfrun.models.moe.moe_1d import unsplit_along
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing
from mtfrun.models.moe.routing_metrics import VISITS, level_metrics, level_shapes, visits_metric
from mtfrun.models.moe.top_2 import Top2


class Sizes(NamedTuple):
    """How tokens are cut into groups on both levels.

    Args:
      groups_x, group_x, capacity_x: groups for each outer batch, their tokens, slots of an expert.
      groups_y, group_y, capacity_y: the same of the second level, over all outer batches.
    """

    groups_x: mtf.Dimension
    group_x: mtf.Dimension
    capacity_x: mtf.Dimension
    groups_y: mtf.Dimension
    group_y: mtf.Dimension
    capacity_y: mtf.Dimension


class MoE2D(Sublayer):
    """Every token visits a few groups of experts and in each a few experts; Shazeer et al. 2017,
    arXiv:1701.06538, appendix B.

    The first level chooses among expert_x, the second, whose router differs from one expert_x to
    the next, among expert_y. A token's first choice on the first level may visit two experts there,
    its second choice one: none to three in all.

    On a mesh of two axes: tokens {outer_batch, batch, ...} with outer_batch on one and batch on the
    other, expert_x on the axis of the batch, expert_y on that of the outer batch; tokens move by
    all-to-alls over one axis at a time. Without an outer batch every device of that axis computes
    the first level.

    Args: as for `MoE1D`, but:
      num_experts: (expert_x, expert_y).
      outer_gate, inner_gate: choose on the first and on the second level.
      capacity: `second_level` is the factor of the second level, in training and in evaluation.
      group_size: about so many tokens are a group, on both levels.
    """

    short_name = "moe_2d"

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_experts: Sequence[int] = (4, 4),
        hidden_size: int = 4096,
        outer_gate: Gate = Top2(),
        inner_gate: Gate = Top2(),
        capacity: Capacity = Capacity(),
        group_size: int = 1024,
        loss_coef: float = 1e-2,
        activations: Sequence[Activation] = (mtf.relu,),
        dropout_rate: float = 0.0,
        dispatch: Dispatch = GatherDispatch(),
    ) -> None:
        super().__init__()
        if len(num_experts) != 2:
            raise ValueError(f"MoE2D.num_experts={num_experts!r} must be two numbers")
        self._mesh = mesh
        self._d_model = d_model
        self._capacity = capacity
        self._group_size = group_size
        self._loss_coef = loss_coef
        self._dispatch = dispatch
        self._x, self._y = num_experts
        x, y = mtf.Dimension("expert_x", self._x), mtf.Dimension("expert_y", self._y)
        self.outer_router = Router(mesh, d_model, _unsplit(x), outer_gate, dtypes)
        self.inner_router = Router(
            mesh, d_model, _unsplit(y), inner_gate, dtypes, outer_experts=[x]
        )
        self.experts = Experts(
            mesh,
            [y, x],
            d_model,
            dtypes,
            hidden_size=hidden_size,
            activations=activations,
            dropout_rate=dropout_rate,
        )

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """Those of both levels, and the tokens by the number of experts that they visit."""
        levels = {"level_1": self._x, "level_2": self._x * self._y}
        shapes = {
            f"{level}/{name}": shape
            for level, experts in levels.items()
            for name, shape in level_shapes(experts).items()
        }
        return {**shapes, "visits": mtf.Shape([VISITS])}

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {[outer,] batch, length, d_model} for x of the same shape."""
        *outer, batch, length, _ = x.shape.dims
        (outer_batch,) = outer or [mtf.Dimension("outer_batch_unsplit", 1)]
        sizes = self._sizes(outer_batch, batch, length, context.training)
        shape = mtf.Shape([outer_batch, sizes.groups_x, sizes.group_x])
        inputs = mtf.reshape(x, shape + self._d_model)
        importance = None
        if context.nonpadding is not None:
            importance = mtf.reshape(context.nonpadding, shape)
        return mtf.reshape(self._mixture(inputs, sizes, importance, context), x.shape)

    def step(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns {batch..., d_model} for x of the same shape: every token is a group with all the
        room.

        Raises:
          ValueError: a gate draws random numbers.
        """
        batch = mtf.combined_dimension(x.shape.dims[:-1])
        outer_batch = mtf.Dimension("outer_batch_unsplit", 1)
        sizes = Sizes(
            batch,
            mtf.Dimension("group_size_x", 1),
            mtf.Dimension("expert_capacity_x", 1),
            mtf.Dimension(_outer_name(outer_batch), batch.size),
            mtf.Dimension("group_size_y", 1),
            mtf.Dimension("expert_capacity_y", 1),
        )
        inputs = mtf.reshape(x, [outer_batch, batch, sizes.group_x, self._d_model])
        return mtf.reshape(self._mixture(inputs, sizes, None, context), x.shape), state

    def _sizes(
        self,
        outer_batch: mtf.Dimension,
        batch: mtf.Dimension,
        length: mtf.Dimension,
        training: bool,
    ) -> Sizes:
        tokens = batch.size * length.size
        groups_x = mtf.Dimension(batch.name, num_groups(tokens, self._group_size))
        check_groups(self._mesh, groups_x, tokens, "MoE2D.group_size")
        group_x = mtf.Dimension("group_size_x", tokens // groups_x.size)
        slots = self._capacity.first_level(group_x.size, self._x, training=training)
        capacity_x = mtf.Dimension("expert_capacity_x", slots)
        arrived = outer_batch.size * groups_x.size * slots
        groups_y = mtf.Dimension(_outer_name(outer_batch), num_groups(arrived, self._group_size))
        check_groups(self._mesh, groups_y, arrived, "MoE2D.group_size")
        group_y = mtf.Dimension("group_size_y", arrived // groups_y.size)
        capacity_y = mtf.Dimension(
            "expert_capacity_y", self._capacity.of_second_level(group_y.size, self._y)
        )
        return Sizes(groups_x, group_x, capacity_x, groups_y, group_y, capacity_y)

    def _mixture(
        self, x: mtf.Tensor, sizes: Sizes, importance: mtf.Tensor | None, context: Context
    ) -> mtf.Tensor:
        """Returns the mixture for x {outer_batch, groups_x, group_x, d_model}."""
        found = two_levels(
            x,
            importance,
            sizes,
            self.outer_router,
            self.inner_router,
            self.experts,
            self._dispatch,
            context,
        )
        if context.collector is not None:
            context.collector.add(self.path, self._auxiliary(found, importance))
        return found.output

    def _auxiliary(self, found: TwoLevels, importance: mtf.Tensor | None) -> Auxiliary:
        levels = {
            "level_1": level_metrics(found.outer, importance),
            "level_2": level_metrics(found.inner, found.inner_importance),
        }
        metrics = {f"{level}/{n}": m for level, means in levels.items() for n, m in means.items()}
        metrics["visits"] = visits_metric(found.visits(), importance)
        return Auxiliary(self._loss_coef * (found.outer.loss + found.inner.loss), metrics)


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
    moved = mtf.Shape([x_split, a, _unsplit(g), c])
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


def _unsplit(dim: mtf.Dimension) -> mtf.Dimension:
    return mtf.Dimension(f"{dim.name}_unsplit", dim.size)


def _outer_name(outer_batch: mtf.Dimension) -> str:
    """Returns the name of the second level's groups: they are split as the outer batch is."""
    return outer_batch.name.removesuffix("_unsplit")
