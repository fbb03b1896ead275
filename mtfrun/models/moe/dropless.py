"""A mixture of experts without a capacity, as a sublayer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.dispatch import GatherDispatch
from mtfrun.models.moe.dropless_rounds import Rounds
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.metrics import experts_per_token_metric, level_metrics
from mtfrun.models.moe.mixture import Mixture
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Routing
from mtfrun.models.transformer.sequence_call import SequenceCall

_DISPATCH = GatherDispatch()


def apply_to_sorted_rows(
    experts: Experts, x: mtf.Tensor, routing: Routing, expert: mtf.Dimension, call: Call
) -> mtf.Tensor:
    """Returns the weighted outputs {group, n} of the experts of every token x {group, d_model}.

    There is a row for every choice of every token; the rows of an expert are one piece, as long as
    it is. Gale et al. 2022, arXiv:2211.15841, section 4. `routing` must have a capacity that drops
    none. Dropout in the experts depends on the index of the choice and of the token.
    """
    *_, d_model = x.shape.dims
    by_row = routing_to_sorted_rows(routing)
    one, rows = by_row.experts, by_row.capacity
    inputs = _DISPATCH.to_slots(x, by_row, mtf.Shape([one, rows, d_model]))
    sizes = mtf.reshape(mtf.to_int32(routing.counts), [expert])
    if call.training and call.key is not None:
        source = mtf.reshape(by_row.source_of_slot, [rows])
        call = dataclasses.replace(call, key=call.key.fold_in(source))
    outputs = experts.of_rows(mtf.reshape(inputs, [rows, d_model]), sizes, call)
    outputs = mtf.reshape(outputs, [one, rows, experts.output_dim])
    return _DISPATCH.to_tokens(outputs, by_row, mtf.Shape([by_row.group, experts.output_dim]))


def routing_to_sorted_rows(routing: Routing) -> Routing:
    """Returns the routing {group} as one to a single expert: slots are the rows of all experts.

    The tokens of expert 0 by their position there, then the tokens of expert 1, and so on. Choices
    of no expert have no row, so that the last rows are empty.
    """
    one = mtf.Dimension("all_experts", 1)
    rows = mtf.Dimension("rows", len(routing.choices) * routing.group.size)
    first_row = mtf.to_int32(mtf.cumsum(routing.counts, routing.experts, exclusive=True))
    choices = [
        dataclasses.replace(
            choice,
            expert=mtf.zeros_like(choice.expert),
            position=mtf.gather(first_row, choice.expert, routing.experts) + choice.position,
        )
        for choice in routing.choices
    ]
    return dataclasses.replace(routing, choices=choices, experts=one, capacity=rows)


class DroplessMoE(Mixture):
    """Every token is dispatched to all experts that the gate chooses, whatever the balance.

    "Dropless", as in MegaBlocks, Gale et al. 2022, arXiv:2211.15841. The output of a token depends
    on this token alone: it is the same in training, in evaluation, and in a step of decoding. Any
    gate by which tokens choose experts will do (`TopK`, `Switch`, `Top2`, ...); its losses see all
    tokens of a call as one group. It has the variables of `MoE1D`, and reads its checkpoints.

    One device sorts the choices of all tokens by expert; time and memory grow with the tokens, not
    with the imbalance. On several devices there are as many `Rounds` as the fullest expert needs:
    the memory does not depend on the balance, and the time does. There all devices have the
    router's logits of all tokens.

    Args:
      router, experts, loss_coef: see `MoE1D`.
      round_factor: on several devices the slots of all experts together in a round, relative to the
        choices of all tokens.
      routes_padding: padding is dispatched to experts as well, and counts in the losses of the
        gate, as in transformers. The outputs of all other tokens are the same.
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
        loss_coef: float = 1e-2,
        round_factor: float = 1.25,
        routes_padding: bool = False,
    ) -> None:
        super().__init__(
            mesh, d_model, loss_coef=loss_coef, experts_of_levels={"level_1": num_experts}
        )
        self._round_factor = round_factor
        self._routes_padding = routes_padding
        self._experts = mtf.Dimension("experts", num_experts)
        self._experts_unsplit = mtf.Dimension("experts_unsplit", num_experts)
        self.router = router(mesh, d_model, self._experts_unsplit, dtypes)
        self.experts = experts(mesh, [self._experts], d_model, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {outer..., batch, length, n} for x {..., d_model}; n: the experts' output."""
        *outer, batch, length, _ = x.shape.dims
        tokens = mtf.combined_dimension([batch, length])
        nonpadding = None if self._routes_padding else call.nonpadding
        y = self._mixture(mtf.reshape(x, [*outer, tokens, self._d_model]), nonpadding, call)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Returns {batch..., n} for x {batch..., d_model}; gates must not draw random numbers."""
        tokens = mtf.combined_dimension(x.shape.dims[:-1])
        y = self._mixture(mtf.reshape(x, [tokens, self._d_model]), None, call)
        return mtf.reshape(y, self._output_shape(x)), state

    def _mixture(
        self, x: mtf.Tensor, nonpadding: mtf.Tensor | None, call: SequenceCall
    ) -> mtf.Tensor:
        """Returns {outer..., tokens, n} for x {outer..., tokens, d_model}."""
        *outer, tokens, _ = x.shape.dims
        # All tokens in one group, whatever the mesh.
        group = mtf.Dimension("group_size", mtf.Shape([*outer, tokens]).size)
        capacity = mtf.Dimension("expert_capacity", group.size)
        importance = None if nonpadding is None else mtf.reshape(nonpadding, [group])
        logits = mtf.reshape(self.router.logits(x, call), [group, self._experts_unsplit])
        routing = self.router.route(logits, group, capacity, importance, call)
        if call.collector is not None:
            experts_per_token = mtf.add_n([choice.dispatched for choice in routing.choices])
            self._collect(
                call.collector,
                routing.loss,
                {"level_1": level_metrics(routing, importance)},
                experts_per_token_metric(experts_per_token, importance),
            )
        if call.recorder is not None:
            call.recorder.add_experts(self, "level_1", routing.first_expert())
        if not x.mesh.is_distributed:
            rows = mtf.reshape(x, [group, self._d_model])
            y = apply_to_sorted_rows(self.experts, rows, routing, self._experts, call)
            return mtf.reshape(y, [*outer, tokens, self.experts.output_dim])
        groups = mtf.Dimension(tokens.name, x.mesh.num_splits(tokens))
        of_group = mtf.Dimension("group_size", tokens.size // groups.size)
        rounds = Rounds(self.experts, self._experts, self._round_factor)
        inputs = mtf.reshape(x, [*outer, groups, of_group, self._d_model])
        y = rounds(inputs, routing, groups, call)
        return mtf.reshape(y, [*outer, tokens, self.experts.output_dim])
