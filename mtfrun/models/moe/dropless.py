"""A mixture of experts without a capacity, as a sublayer."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe import dispatch
from mtfrun.models.moe.capacity import Candidate, dispatch_in_order
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.mixture import Mixture, shares_of
from mtfrun.models.moe.router import Router
from mtfrun.models.moe.routing import Choice, GateContext, Routing
from mtfrun.models.transformer.sublayer import SequenceCall


def apply_to_sorted_rows(
    experts: Experts, x: mtf.Tensor, routing: Routing, expert: mtf.Dimension, call: Call
) -> mtf.Tensor:
    """Returns the weighted outputs {group, n} of the experts of every token x {group, d_model}.

    There is a row for every choice of every token, sorted by expert; Gale et al. 2022,
    arXiv:2211.15841, section 4. `routing` must have a capacity for all tokens. Dropout in the
    experts depends on the index of the choice and of the token.
    """
    *_, d_model = x.shape.dims
    by_row = routing_to_sorted_rows(routing)
    one, rows = by_row.experts, by_row.capacity
    inputs = dispatch.to_slots(x, by_row, mtf.Shape([one, rows, d_model]))
    sizes = mtf.reshape(mtf.to_int32(routing.counts), [expert])
    if call.training and call.key is not None:
        source = mtf.reshape(by_row.source_of_slot, [rows])
        call = dataclasses.replace(call, key=call.key.fold_in(source))
    outputs = experts.map_rows(mtf.reshape(inputs, [rows, d_model]), sizes, call)
    outputs = mtf.reshape(outputs, [one, rows, experts.output_dim])
    return dispatch.to_tokens(outputs, by_row, mtf.Shape([by_row.group, experts.output_dim]))


def routing_to_sorted_rows(routing: Routing) -> Routing:
    """Returns the routing {group} as a routing to one expert with the slots of all experts.

    Rows are the tokens of expert 0 by their position there, then of expert 1, and so on. Choices
    without an expert have no row, so that the last rows are empty.
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
    gate by which tokens choose experts will do; its losses see all tokens of a call as one group.
    It has the variables of `MoE1D`, and reads its checkpoints.

    One device sorts the choices of all tokens by expert. On several devices there are as many
    rounds as the fullest expert needs: the memory does not depend on the balance, the time does.
    There all devices have the router's logits of all tokens.

    Args:
      router, experts, loss_coef: see `MoE1D`.
      round_factor: the slots of all experts together in a round on several devices, relative to the
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

    @property
    def active_shares(self) -> Mapping[mtf.Variable, float]:
        per_token = self.router.experts_per_token(math.inf)
        return shares_of(self.experts, per_token / self._experts.size)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
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
        *outer, tokens, _ = x.shape.dims
        # All tokens in one group, whatever the mesh.
        group = mtf.Dimension("group_size", mtf.Shape([*outer, tokens]).size)
        capacity = mtf.Dimension("expert_capacity", group.size)
        importance = None if nonpadding is None else mtf.reshape(nonpadding, [group])
        logits = mtf.reshape(self.router.logits(x, call), [group, self._experts_unsplit])
        routing = self.router.route(logits, group, capacity, importance, call)
        self._report({"level_1": (routing, importance)}, routing, call)
        if not x.mesh.is_distributed:
            rows = mtf.reshape(x, [group, self._d_model])
            y = apply_to_sorted_rows(self.experts, rows, routing, self._experts, call)
            return mtf.reshape(y, [*outer, tokens, self.experts.output_dim])
        groups = mtf.Dimension(tokens.name, x.mesh.num_splits(tokens))
        device_group = mtf.Dimension("group_size", tokens.size // groups.size)
        inputs = mtf.reshape(x, [*outer, groups, device_group, self._d_model])
        y = self._in_rounds(inputs, routing, groups, call)
        return mtf.reshape(y, [*outer, tokens, self.experts.output_dim])

    def _in_rounds(
        self, x: mtf.Tensor, routing: Routing, groups: mtf.Dimension, call: Call
    ) -> mtf.Tensor:
        """Returns {..., groups, group, n} for tokens x {..., groups, group, d_model}.

        Devices have buffers of a fixed size, which the worst case, all tokens to one expert, would
        make as large as all tokens together. So a round is a mixture with a capacity: it dispatches
        to every expert the next `slots` of the tokens that chose it. With loads up to `slots` there
        is one round; where all tokens choose one of E experts, E / (round_factor * choices) rounds.
        The backward pass computes a round's inner values again.

        A group's tokens are on one device; `groups` may have the same mesh axis as the experts. The
        routing is of all tokens in this order, with a capacity for all.
        """
        *_, group, _ = x.shape.dims
        in_groups = _in_groups(routing, mtf.Shape(x.shape.dims[:-1]), group)
        choices = len(routing.choices)
        slots = math.ceil(self._round_factor * choices * group.size / self._experts.size)
        capacity = mtf.Dimension("expert_capacity", min(group.size, slots))
        fullest = mtf.to_int32(mtf.reduce_max(in_groups.counts))
        rounds = mtf.floordiv(fullest + (capacity.size - 1), capacity.size)
        variables = list(self.experts.named_variables().values())

        def round_(i: mtf.Tensor, inputs: Sequence[mtf.Tensor]) -> mtf.Tensor:
            x, gates, weights = inputs[0], inputs[1 : 1 + choices], inputs[1 + choices :]
            with mtf.with_values(dict(zip(variables, weights, strict=True))):
                return self._round(x, _round_routing(in_groups, gates, capacity, i), groups, call)

        gates = [choice.gate for choice in in_groups.choices]
        weights = [variable.read_alone() for variable in variables]
        output_shape = mtf.Shape([*x.shape.dims[:-1], self.experts.output_dim])
        is_trained = [True] * (1 + choices) + [variable.is_trained for variable in variables]
        return _sum_of_rounds(round_, rounds, [x, *gates, *weights], is_trained, output_shape)

    def _round(
        self, x: mtf.Tensor, routing: Routing, groups: mtf.Dimension, call: Call
    ) -> mtf.Tensor:
        *outer, _, _, d_model = x.shape.dims
        slots = mtf.Shape([routing.experts, *outer, groups, routing.capacity])
        inputs = dispatch.to_slots(x, routing, slots + d_model)
        source = None
        if call.training and call.key is not None:
            source = _source_of_slot(routing, slots)
        outputs = dispatch.apply_experts(self.experts, inputs, self._experts, groups, call, source)
        output_shape = mtf.Shape([*x.shape.dims[:-1], self.experts.output_dim])
        return dispatch.to_tokens(outputs, routing, output_shape)


def _in_groups(routing: Routing, shape: mtf.Shape, group: mtf.Dimension) -> Routing:
    """Returns a routing {tokens} without dropped tokens as a routing {..., groups, group}."""
    context = GateContext(group, routing.experts, mtf.Dimension("expert_capacity", group.size))
    candidates = []
    for choice in routing.choices:
        expert, gate = mtf.reshape(choice.expert, shape), mtf.reshape(choice.gate, shape)
        dispatched = mtf.reshape(choice.dispatched, shape)
        mask = mtf.one_hot(expert, routing.experts) * dispatched
        candidates.append(Candidate(expert, gate, mask))
    choices = dispatch_in_order(candidates, context)
    return dataclasses.replace(routing, choices=choices, group=group, capacity=context.capacity)


def _round_routing(
    routing: Routing, gates: Sequence[mtf.Tensor], capacity: mtf.Dimension, i: mtf.Tensor
) -> Routing:
    """Returns the routing of round i: to each expert its tokens from i * capacity on."""
    choices = []
    for choice, gate in zip(routing.choices, gates, strict=True):
        position = choice.position - i * capacity.size
        is_slot = mtf.logical_and(mtf.greater_equal(position, 0), mtf.less(position, capacity.size))
        is_in_round = mtf.to_float(is_slot)
        dispatched, gate = choice.dispatched * is_in_round, gate * is_in_round
        choices.append(Choice(choice.expert, position, dispatched, choice.selected, gate))
    return dataclasses.replace(routing, choices=choices, capacity=capacity)


def _source_of_slot(routing: Routing, slots: mtf.Shape) -> mtf.Tensor:
    """Returns int32 k * tokens + t for choice k of token t, by slot."""
    *_, experts, capacity = routing.source_of_slot.shape.dims
    tokens = mtf.Dimension("tokens", (routing.batch + routing.group).size)
    number = mtf.range(routing.source_of_slot.mesh, tokens, tf.int32)
    number = mtf.reshape(number, [*routing.batch, routing.group])
    shape = mtf.Shape([*routing.batch, experts, capacity])
    token = mtf.gather_rows(number, [(routing.group, routing.token_of_slot)], shape)
    choice = mtf.floordiv(routing.source_of_slot, routing.group.size)
    return mtf.transpose(choice * tokens.size + token, slots)


def _sum_of_rounds(
    round_: Callable[[mtf.Tensor, Sequence[mtf.Tensor]], mtf.Tensor],
    rounds: mtf.Tensor,
    inputs: Sequence[mtf.Tensor],
    is_trained: Sequence[bool],
    output_shape: mtf.Shape,
) -> mtf.Tensor:
    """Returns the sum over the rounds {output_shape...}, with gradients of the trained inputs."""

    def loop(
        add_round: Callable[[mtf.Tensor, list[mtf.Tensor]], list[mtf.Tensor]],
        inputs: Sequence[mtf.Tensor],
        zeros: list[mtf.Tensor],
    ) -> list[mtf.Tensor]:
        def body(i: mtf.Tensor, *sums: mtf.Tensor) -> list[mtf.Tensor]:
            # Copies, of which the gradients are taken, as in `layers.attention_in_blocks`.
            terms = add_round(i, list(map(mtf.identity, inputs)))
            return [i + 1, *map(mtf.add, sums, terms)]

        first = mtf.constant(rounds.mesh, 0, dtype=tf.int32)
        variables = [first, *zeros]
        return list(mtf.while_loop(lambda i, *_: mtf.less(i, rounds), body, variables))[1:]

    def forward(*inputs: mtf.Tensor) -> mtf.Tensor:
        zeros = mtf.zeros(rounds.mesh, output_shape, inputs[0].dtype)
        (y,) = loop(lambda i, own: [round_(i, own)], inputs, [zeros])
        return y

    def backward(
        inputs: list[mtf.Tensor], _outputs: list[mtf.Tensor], grads: list[mtf.Tensor]
    ) -> list[mtf.Tensor | None]:
        (y_grad,) = grads

        def gradients(i: mtf.Tensor, own: list[mtf.Tensor]) -> list[mtf.Tensor]:
            trained = list(itertools.compress(own, is_trained))
            with mtf.collect_reports():  # the forward loop reports them
                own_gradients = mtf.gradients([round_(i, own)], trained, [y_grad])
            pairs = zip(trained, own_gradients, strict=True)
            return [mtf.zeros_like(x) if g is None else g for x, g in pairs]

        zeros = list(map(mtf.zeros_like, itertools.compress(inputs, is_trained)))
        sums = iter(loop(gradients, inputs, zeros))
        return [next(sums) if has_gradient else None for has_gradient in is_trained]

    return mtf.custom_gradient(forward, backward, inputs)
