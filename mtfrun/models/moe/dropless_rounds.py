"""Experts without a capacity on several devices: rounds of mixtures that have one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.dispatch import GatherDispatch
from mtfrun.models.moe.expert_parallelism import apply_experts
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.gates.gate import GateContext
from mtfrun.models.moe.gates.position_in_expert import Candidate, dispatch_in_order
from mtfrun.models.moe.routing import Choice, Routing

_DISPATCH = GatherDispatch()


@dataclasses.dataclass(frozen=True)
class Rounds:
    """A mixture in as many rounds as its fullest expert needs.

    Devices have buffers of a fixed size, which the worst case, all tokens to one expert, would make
    as large as all tokens together. So a round is a mixture with a capacity: it dispatches to every
    expert the next `slots` of the tokens that chose it. The time depends on the balance, the memory
    does not. With loads up to `slots` there is one round; where all tokens choose one of E experts,
    E / (factor * choices) rounds. The backward pass computes a round's inner values again.

    Attributes:
      factor: the slots of all experts together in a round, relative to the choices of all tokens.
    """

    experts: Experts
    expert: mtf.Dimension
    factor: float

    def __call__(
        self, x: mtf.Tensor, routing: Routing, groups: mtf.Dimension, call: Call
    ) -> mtf.Tensor:
        """Returns {..., groups, group, n} for tokens x {..., groups, group, d_model}.

        A group's tokens are on one device; `groups` may have the same mesh axis as the experts. The
        routing is of all tokens in this order, of a capacity that drops none. Dropout in the
        experts depends on the index of the choice and of the token.
        """
        *_, group, _ = x.shape.dims
        in_groups = _in_groups(routing, mtf.Shape(x.shape.dims[:-1]), group)
        choices = len(routing.choices)
        slots = math.ceil(self.factor * choices * group.size / self.expert.size)
        capacity = mtf.Dimension("expert_capacity", min(group.size, slots))
        fullest = mtf.to_int32(mtf.reduce_max(in_groups.counts))
        rounds = mtf.floordiv(fullest + (capacity.size - 1), capacity.size)
        variables = list(self.experts.named_variables().values())

        def round_(i: mtf.Tensor, inputs: Sequence[mtf.Tensor]) -> mtf.Tensor:
            x, gates, weights = inputs[0], inputs[1 : 1 + choices], inputs[1 + choices :]
            with mtf.with_values(dict(zip(variables, weights, strict=True))):
                return self._round(x, _of_round(in_groups, gates, capacity, i), groups, call)

        gates = [choice.gate for choice in in_groups.choices]
        weights = [mtf.read_variable(variable) for variable in variables]
        output_shape = mtf.Shape([*x.shape.dims[:-1], self.experts.output_dim])
        return _sum_of_rounds(round_, rounds, [x, *gates, *weights], output_shape)

    def _round(
        self, x: mtf.Tensor, routing: Routing, groups: mtf.Dimension, call: Call
    ) -> mtf.Tensor:
        *outer, _, _, d_model = x.shape.dims
        slots = mtf.Shape([routing.experts, *outer, groups, routing.capacity])
        inputs = _DISPATCH.to_slots(x, routing, slots + d_model)
        source = None
        if call.training and call.key is not None:
            source = _source_of_slot(routing, slots)
        outputs = apply_experts(self.experts, inputs, self.expert, groups, call, source)
        output_shape = mtf.Shape([*x.shape.dims[:-1], self.experts.output_dim])
        return _DISPATCH.to_tokens(outputs, routing, output_shape)


def _in_groups(routing: Routing, shape: mtf.Shape, group: mtf.Dimension) -> Routing:
    """Returns a routing {tokens} without dropped ones as a routing {..., groups, group}."""
    context = GateContext(group, routing.experts, mtf.Dimension("expert_capacity", group.size))
    candidates = []
    for choice in routing.choices:
        expert, gate = mtf.reshape(choice.expert, shape), mtf.reshape(choice.gate, shape)
        dispatched = mtf.reshape(choice.dispatched, shape)
        mask = mtf.one_hot(expert, routing.experts) * dispatched
        candidates.append(Candidate(expert, gate, mask))
    choices = dispatch_in_order(candidates, context)
    return dataclasses.replace(routing, choices=choices, group=group, capacity=context.capacity)


def _of_round(
    routing: Routing, gates: Sequence[mtf.Tensor], capacity: mtf.Dimension, i: mtf.Tensor
) -> Routing:
    """Returns the routing of round i: to each expert its tokens from i * capacity on."""
    choices = []
    for choice, gate in zip(routing.choices, gates, strict=True):
        position = choice.position - i * capacity.size
        is_in_round = mtf.to_float(
            mtf.logical_and(mtf.greater_equal(position, 0), mtf.less(position, capacity.size))
        )
        dispatched = choice.dispatched * is_in_round
        choices.append(
            Choice(choice.expert, position, dispatched, choice.selected, gate * is_in_round)
        )
    return dataclasses.replace(routing, choices=choices, capacity=capacity)


def _source_of_slot(routing: Routing, slots: mtf.Shape) -> mtf.Tensor:
    """Returns int32 k * tokens + t for choice k of token t, the one in every slot."""
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
    output_shape: mtf.Shape,
) -> mtf.Tensor:
    """With gradients of the inputs; `round_` must use no other tensor that needs a gradient."""

    def loop(
        add_round: Callable[[mtf.Tensor, list[mtf.Tensor]], list[mtf.Tensor]],
        inputs: Sequence[mtf.Tensor],
        zeros: list[mtf.Tensor],
    ) -> list[mtf.Tensor]:
        def body(i: mtf.Tensor, *sums: mtf.Tensor) -> list[mtf.Tensor]:
            # The loop needs copies, see `layers.scan_layers`.
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
    ) -> list[mtf.Tensor]:
        (of_y,) = grads

        def gradients(i: mtf.Tensor, own: list[mtf.Tensor]) -> list[mtf.Tensor]:
            with mtf.collect_reports():  # the forward loop reports them
                of_own = mtf.gradients([round_(i, own)], own, [of_y])
            return [mtf.zeros_like(x) if g is None else g for x, g in zip(own, of_own, strict=True)]

        return loop(gradients, inputs, list(map(mtf.zeros_like, inputs)))

    return mtf.custom_gradient(forward, backward, inputs)
