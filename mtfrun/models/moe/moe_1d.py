"""A mixture of experts of one level, as a sublayer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtfrun import mtf
from mtfrun.layers import Auxiliary, Context, Sublayer
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.chunks import map_chunks
from mtfrun.models.moe.dispatch.all_to_all import apply_experts
from mtfrun.models.moe.dispatch.dispatch import Dispatch
from mtfrun.models.moe.dispatch.gather import GatherDispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.metrics import VISITS, level_metrics, level_shapes, visits_metric
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing


class MoE1D(Sublayer):
    """Every token visits one or a few of many feed-forward layers.

    Shazeer et al. 2017, arXiv:1701.06538; computed as in Lepikhin et al. 2020, arXiv:2006.16668,
    algorithm 2. Tokens of a batch are split into groups; a group has `capacity` slots in every
    expert. The output of a token that finds none is 0. Experts are split over the mesh axis of
    "experts": where that is the axis of the batch, tokens move to the device of their expert and
    back by two all-to-alls.

    Args:
      mesh, d_model, dtypes: as for all sublayers.
      num_experts: how many experts.
      router: a class, called as `router(mesh, d_model, experts_dim, dtypes)`.
      experts: a class, called as `experts(mesh, [experts_dim], d_model, dtypes)`.
      capacity: the size of groups, and the slots of an expert in training and in evaluation. While
        decoding there is room for every token.
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
        loss_coef: float = 1e-2,
        dispatch: Dispatch = GatherDispatch(),
    ) -> None:
        super().__init__()
        self._mesh = mesh
        self._d_model = d_model
        self._capacity = capacity
        self._loss_coef = loss_coef
        self._dispatch = dispatch
        self._experts = mtf.Dimension("experts", num_experts)
        experts_unsplit = mtf.Dimension("experts_unsplit", num_experts)
        self.router = router(mesh, d_model, experts_unsplit, dtypes)
        self.experts = experts(mesh, [self._experts], d_model, dtypes)

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """Those of the one level, and the tokens by the number of experts that they visit."""
        levels = {f"level_1/{n}": s for n, s in level_shapes(self._experts.size).items()}
        return {**levels, "visits": mtf.Shape([VISITS])}

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {outer..., batch, length, n} for x {outer..., batch, length, d_model}.

        n is the experts' output dimension: d_model unless they were told otherwise.
        """
        *outer, batch, length, _ = x.shape.dims
        tokens = batch.size * length.size
        groups = self._capacity.groups(self._mesh, batch.name, tokens)
        group = mtf.Dimension("group_size", tokens // groups.size)
        slots = self._capacity.first_level(
            group.size, self._experts.size, training=context.training
        )
        inputs = mtf.reshape(x, [*outer, groups, group, self._d_model])
        importance = None
        if context.nonpadding is not None:
            importance = mtf.reshape(context.nonpadding, inputs.shape - self._d_model)
        y = self._mixture(inputs, slots, importance, context)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns {batch..., n} for x {batch..., d_model}.

        Every token is a group of its own, with room in every expert.

        Raises:
          InputError: the gate draws random numbers.
        """
        groups = mtf.combined_dimension(x.shape.dims[:-1])
        group = mtf.Dimension("group_size", 1)
        inputs = mtf.reshape(x, [groups, group, self._d_model])
        y = self._mixture(inputs, 1, None, context)
        return mtf.reshape(y, self._output_shape(x)), state

    def prefill(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns what `step` gives for all positions of x {batch..., length, d_model}.

        About a group of tokens at a time, for every expert has room for all of these.
        """
        y = map_chunks(
            lambda chunk: self.step(chunk, (), context)[0],
            x,
            self.experts.output_dim,
            self._capacity.group_size,
        )
        return y, state

    def _output_shape(self, x: mtf.Tensor) -> mtf.Shape:
        return (x.shape - self._d_model) + self.experts.output_dim

    def _mixture(
        self, x: mtf.Tensor, slots: int, importance: mtf.Tensor | None, context: Context
    ) -> mtf.Tensor:
        """Returns the mixture for x {outer..., groups, group_size, d_model}."""
        *outer, groups, group, _ = x.shape.dims
        capacity = mtf.Dimension("expert_capacity", slots)
        routing = self.router(x, group, capacity, importance, context)
        if context.collector is not None:
            context.collector.add(self.path, self._auxiliary(routing, importance))
        inputs = self._dispatch.to_slots(
            x, routing, mtf.Shape([routing.experts, *outer, groups, capacity, self._d_model])
        )
        outputs = apply_experts(self.experts, inputs, self._experts, groups, context)
        return self._dispatch.to_tokens(
            outputs, routing, mtf.Shape([*outer, groups, group, self.experts.output_dim])
        )

    def _auxiliary(self, routing: Routing, importance: mtf.Tensor | None) -> Auxiliary:
        metrics = {f"level_1/{n}": m for n, m in level_metrics(routing, importance).items()}
        visits = mtf.add_n([choice.dispatched for choice in routing.choices])
        metrics["visits"] = visits_metric(visits, importance)
        return Auxiliary(self._loss_coef * routing.loss, metrics)
