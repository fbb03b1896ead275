"""A mixture of experts of one level, as a sublayer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtfrun import mtf
from mtfrun.models.moe import dispatch
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.mixture import CapacityMixture, importance_of_tokens, shares_of
from mtfrun.models.moe.router import Router
from mtfrun.models.transformer.sublayer import SequenceCall


class MoE1D(CapacityMixture):
    """Every token is dispatched to one or a few of many feed-forward layers.

    Shazeer et al. 2017, arXiv:1701.06538; computed as in Lepikhin et al. 2020, arXiv:2006.16668,
    algorithm 2. A group of tokens has `capacity` slots in every expert; the output of a token
    without a slot is 0. Where the experts are split over the mesh axis of the batch, tokens move to
    the device of their expert and back by two all-to-alls.

    Args:
      router: a class, called as `router(mesh, d_model, experts_dim, dtypes)`.
      experts: a class, called as `experts(mesh, [experts_dim], d_model, dtypes)`.
      capacity: the size of groups, and the slots of an expert in training and in evaluation. In
        decoding every token has a slot in every expert.
      loss_coef: the weight of the gate's losses in the model's loss.
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
    ) -> None:
        super().__init__(
            mesh, d_model, loss_coef=loss_coef, experts_of_levels={"level_1": num_experts}
        )
        self._capacity = capacity
        self._experts = mtf.Dimension("experts", num_experts)
        experts_unsplit = mtf.Dimension("experts_unsplit", num_experts)
        self.router = router(mesh, d_model, experts_unsplit, dtypes)
        self.experts = experts(mesh, [self._experts], d_model, dtypes)

    @property
    def active_shares(self) -> Mapping[mtf.Variable, float]:
        per_token = self.router.experts_per_token(self._capacity.training)
        return shares_of(self.experts, per_token / self._experts.size)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {outer..., batch, length, n} for x {..., d_model}; n: the experts' output."""
        *outer, batch, length, _ = x.shape.dims
        tokens = batch.size * length.size
        groups = self._capacity.groups(self._mesh, batch.name, tokens)
        group = mtf.Dimension("group_size", tokens // groups.size)
        phase = "training" if call.training else "evaluation"
        slots = self._capacity.slots(phase, group.size, self._experts.size)
        shape = mtf.Shape([*outer, groups, group])
        inputs = mtf.reshape(x, shape + self._d_model)
        y = self._mixture(inputs, slots, importance_of_tokens(call, shape), call)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Every token is a group, with slots everywhere; the gate must not draw random numbers."""
        groups = mtf.combined_dimension(x.shape.dims[:-1])
        group = mtf.Dimension("group_size", 1)
        inputs = mtf.reshape(x, [groups, group, self._d_model])
        y = self._mixture(inputs, 1, None, call)
        return mtf.reshape(y, self._output_shape(x)), state

    def _mixture(
        self, x: mtf.Tensor, slots: int, importance: mtf.Tensor | None, call: SequenceCall
    ) -> mtf.Tensor:
        *outer, groups, group, _ = x.shape.dims
        capacity = mtf.Dimension("expert_capacity", slots)
        routing = self.router(x, group, capacity, importance, call)
        self._report({"level_1": (routing, importance)}, routing, call)
        inputs = dispatch.to_slots(
            x, routing, mtf.Shape([routing.experts, *outer, groups, capacity, self._d_model])
        )
        outputs = dispatch.apply_experts(self.experts, inputs, self._experts, groups, call)
        return dispatch.to_tokens(
            outputs, routing, mtf.Shape([*outer, groups, group, self.experts.output_dim])
        )
