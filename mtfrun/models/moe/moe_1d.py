"""A mixture of experts of one level, as a sublayer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtfrun import mtf
from mtfrun.layers import Auxiliary, Context, Sublayer
from mtfrun.models.moe.capacity import Capacity, check_groups, num_groups
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.gather_dispatch import GatherDispatch
from mtfrun.models.moe.one_level import one_level
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing
from mtfrun.models.moe.routing_metrics import VISITS, level_metrics, level_shapes, visits_metric
from mtfrun.models.moe.slices import over_slices


class MoE1D(Sublayer):
    """Every token visits one or a few of many feed-forward layers; Shazeer et al. 2017.

    Tokens of a batch are split into groups; a group has `capacity` slots in every expert. A token
    that finds none passes by: its output is 0. Experts are split over the mesh axis of "experts":
    where that is the axis of the batch, tokens go to the device of their expert and come back, two
    all-to-alls.

    Args:
      mesh, d_model, dtypes: as for all sublayers.
      num_experts: how many experts.
      router: a class, called as `router(mesh, d_model, experts_dim, dtypes)`.
      experts: a class, called as `experts(mesh, [experts_dim], d_model, dtypes)`.
      capacity: the slots of an expert in training and in evaluation. While decoding there is room
        for every token.
      group_size: about so many tokens are a group; see `num_groups`.
      loss_coef: the weight of the gate's losses in the model's loss.
      dispatch: moves the tokens.
    """

    short_name = "moe_1d"

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_experts: int = 16,
        router: Callable[..., Router] = Router,
        experts: Callable[..., Experts] = Experts,
        capacity: Capacity = Capacity(),
        group_size: int = 1024,
        loss_coef: float = 1e-2,
        dispatch: Dispatch = GatherDispatch(),
    ) -> None:
        super().__init__()
        self._mesh = mesh
        self._d_model = d_model
        self._capacity = capacity
        self._group_size = group_size
        self._loss_coef = loss_coef
        self._dispatch = dispatch
        split = mtf.Dimension("experts", num_experts)
        self._unsplit = mtf.Dimension("experts_unsplit", num_experts)
        self.router = router(mesh, d_model, self._unsplit, dtypes)
        self.experts = experts(mesh, [split], d_model, dtypes)

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """Those of the one level, and the tokens by the number of experts that they visit."""
        levels = {f"level_1/{n}": s for n, s in level_shapes(self._unsplit.size).items()}
        return {**levels, "visits": mtf.Shape([VISITS])}

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {outer..., batch, length, n} for x {outer..., batch, length, d_model}.

        n is the experts' output dimension: d_model unless they were told otherwise.
        """
        *outer, batch, length, _ = x.shape.dims
        tokens = batch.size * length.size
        groups = mtf.Dimension(batch.name, num_groups(tokens, self._group_size))
        check_groups(self._mesh, groups, tokens, "MoE1D.group_size")
        group = mtf.Dimension("group_size", tokens // groups.size)
        slots = self._capacity.first_level(
            group.size, self._unsplit.size, training=context.training
        )
        inputs = mtf.reshape(x, [*outer, groups, group, self._d_model])
        importance = None
        if context.nonpadding is not None:
            importance = mtf.reshape(context.nonpadding, inputs.shape - self._d_model)
        y = self._mixture(inputs, group, slots, importance, context)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns {batch..., n} for x {batch..., d_model}.

        Every token is a group with all the room.

        Raises:
          ValueError: the gate draws random numbers.
        """
        groups = mtf.combined_dimension(x.shape.dims[:-1])
        group = mtf.Dimension("group_size", 1)
        inputs = mtf.reshape(x, [groups, group, self._d_model])
        y = self._mixture(inputs, group, 1, None, context)
        return mtf.reshape(y, self._output_shape(x)), state

    def prefill(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns what `step` gives for all positions of x {batch..., length, d_model}.

        About `group_size` tokens at a time, for every expert has room for all of these.
        """
        y = over_slices(
            lambda part: self.step(part, (), context)[0],
            x,
            self.experts.output_dim,
            self._group_size,
        )
        return y, state

    def _output_shape(self, x: mtf.Tensor) -> mtf.Shape:
        return (x.shape - self._d_model) + self.experts.output_dim

    def _mixture(
        self,
        x: mtf.Tensor,
        group: mtf.Dimension,
        slots: int,
        importance: mtf.Tensor | None,
        context: Context,
    ) -> mtf.Tensor:
        """Returns the mixture for x {outer..., groups, group, d_model}."""
        capacity = mtf.Dimension("expert_capacity", slots)
        routing = self.router(x, group, capacity, importance, context)
        if context.collector is not None:
            context.collector.add(self.path, self._auxiliary(routing, importance))
        return one_level(x, routing, self.experts, self._dispatch, context)

    def _auxiliary(self, routing: Routing, importance: mtf.Tensor | None) -> Auxiliary:
        metrics = {f"level_1/{n}": m for n, m in level_metrics(routing, importance).items()}
        visits = mtf.add_n([choice.kept for choice in routing.choices])
        metrics["visits"] = visits_metric(visits, importance)
        return Auxiliary(self._loss_coef * routing.loss, metrics)
