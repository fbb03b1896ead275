"""A mixture of experts of two levels, as a sublayer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.dispatch import Dispatch, GatherDispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.mixture import CapacityMixture, importance_of_tokens, shares_of
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.two_level_all_to_all import NO_OUTER_BATCH, TwoLevelDims, two_levels
from mtfrun.models.transformer.sublayer import SequenceCall


class MoE2D(CapacityMixture):
    """Every token is dispatched to a few groups of experts, and to a few experts in each group.

    Shazeer et al. 2017, arXiv:1701.06538, appendix B. The first level chooses among expert_x, the
    second, whose router differs from one expert_x to the next, among expert_y. A token's first
    choice on the first level may go to two experts there, its second choice to one: a token has up
    to three experts.

    On a mesh of two axes: batch and expert_x on one axis, outer_batch and expert_y on the other;
    tokens move by all-to-alls over one axis at a time. Without an outer batch every device of its
    axis computes the first level.

    Args:
      experts, loss_coef, dispatch: see `MoE1D`.
      num_experts: (expert_x, expert_y).
      routers: of both levels; the second is called with `outer_experts` as well.
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
        dispatch: Dispatch = GatherDispatch(),
    ) -> None:
        for name, values in (("num_experts", num_experts), ("routers", routers)):
            if len(values) != 2:
                raise InputError(f"MoE2D.{name}={values!r} must be two, one for each level")
        num_x, num_y = num_experts
        levels = {"level_1": num_x, "level_2": num_x * num_y}
        super().__init__(mesh, d_model, loss_coef=loss_coef, experts_of_levels=levels)
        self._capacity = capacity
        self._dispatch = dispatch
        self._num_experts = (num_x, num_y)
        expert_x, expert_y = mtf.Dimension("expert_x", num_x), mtf.Dimension("expert_y", num_y)
        expert_x_unsplit = mtf.Dimension("expert_x_unsplit", num_x)
        expert_y_unsplit = mtf.Dimension("expert_y_unsplit", num_y)
        outer_router, inner_router = routers
        self.outer_router = outer_router(mesh, d_model, expert_x_unsplit, dtypes)
        self.inner_router = inner_router(
            mesh, d_model, expert_y_unsplit, dtypes, outer_experts=[expert_x]
        )
        self.experts = experts(mesh, [expert_y, expert_x], d_model, dtypes)

    @property
    def active_shares(self) -> Mapping[mtf.Variable, float]:
        """Of the experts' variables those that a token has at most, and of the inner router's.

        The first of a token's choices on the first level has all that the second level's gate
        chooses, each other choice one, see `two_levels`.
        """
        num_x, num_y = self._num_experts
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
        (outer_batch,) = outer or [NO_OUTER_BATCH]
        dims = TwoLevelDims.of_sequences(
            self._mesh,
            self._capacity,
            self._num_experts,
            (outer_batch, batch, length),
            training=call.training,
        )
        shape = mtf.Shape([outer_batch, dims.groups_x, dims.group_size_x])
        inputs = mtf.reshape(x, shape + self._d_model)
        y = self._mixture(inputs, dims, importance_of_tokens(call, shape), call)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Every token is a group, with slots everywhere; gates must not draw random numbers."""
        batch = mtf.combined_dimension(x.shape.dims[:-1])
        dims = TwoLevelDims.of_step(batch)
        inputs = mtf.reshape(x, [NO_OUTER_BATCH, batch, dims.group_size_x, self._d_model])
        y = self._mixture(inputs, dims, None, call)
        return mtf.reshape(y, self._output_shape(x)), state

    def _mixture(
        self, x: mtf.Tensor, dims: TwoLevelDims, importance: mtf.Tensor | None, call: SequenceCall
    ) -> mtf.Tensor:
        """Returns the mixture for x {outer_batch, groups_x, group_size_x, d_model}."""
        mixture = two_levels(
            x,
            importance,
            dims,
            self.outer_router,
            self.inner_router,
            self.experts,
            self._dispatch,
            call,
        )
        levels = {
            "level_1": (mixture.outer, importance),
            "level_2": (mixture.inner, mixture.inner_importance),
        }
        self._report(levels, mixture, call)
        return mixture.output
