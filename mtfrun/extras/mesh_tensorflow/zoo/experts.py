"""Experts of different sizes; further gates and a dispatch of Mesh TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Call, RMSNorm
from mtfrun.models.moe.capacity import (
    EPSILON,
    Candidate,
    dispatch_in_order,
    position_in_expert,
    rank_tokens,
)
from mtfrun.models.moe.experts import Activation, Experts
from mtfrun.models.moe.gate import GateContext, apply_mask, load_balancing_loss, make_routing
from mtfrun.models.moe.gates.switch import Switch
from mtfrun.models.moe.gates.top_2 import (
    Top2,
    Top2Candidates,
    top_2_balancing_loss,
    top_2_candidates,
)
from mtfrun.models.moe.routing import Choice, Routing


class ExpertSize(NamedTuple):
    """The size of some consecutive experts, also given as (num_experts, hidden_size, num_layers).

    `hidden_size`: of each of their layers; `num_layers`: the layers after the first have a norm
    before them and a residual around both.
    """

    num_experts: int
    hidden_size: int
    num_layers: int = 1


class HeterogeneousExperts(Experts):
    """Experts of different hidden sizes and depths in one mixture, as in Mesh TensorFlow 0.1.21.

    There HeterogeneousMoE1D: variables have the largest hidden size and depth, a mask sets hidden
    units to 0 that an expert does not have, and a layer without units adds nothing. So every expert
    takes the time and memory of the largest; parameters behind a mask have no gradient.

    Args:
      sizes: the sizes of all experts in their order; see `ExpertSize`.
      dropout_rate: of the hidden units.
      activations, output_dims: see `Experts`; with several layers the output has d_model.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        expert_dims: Sequence[mtf.Dimension],
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        sizes: Sequence[Sequence[int]] = ((8, 2048), (8, 4096)),
        activations: Sequence[Activation] = (mtf.relu,),
        dropout_rate: float = 0.0,
        output_dims: Sequence[mtf.Dimension] = (),
    ) -> None:
        of_experts = [_expert_size(size) for size in sizes]
        numbers = [size.num_experts for size in of_experts]
        if len(expert_dims) > 1 or sum(numbers) != expert_dims[0].size:
            raise InputError(
                f"HeterogeneousExperts.sizes are of {sum(numbers)} experts, and the mixture has "
                f"{mtf.Shape(expert_dims)}: their numbers must add up to the experts of one level"
            )
        num_layers = max(size.num_layers for size in of_experts)
        if num_layers > 1 and list(output_dims) not in ([], [d_model]):
            raise InputError(
                f"HeterogeneousExperts.sizes have {num_layers} layers, and the residual between "
                "them needs an output of d_model: take one layer here"
            )
        super().__init__(
            mesh,
            expert_dims,
            d_model,
            dtypes,
            hidden_size=max(size.hidden_size for size in of_experts),
            activations=activations,
            dropout_rate=dropout_rate,
            output_dims=output_dims,
        )
        self._sizes, (self._experts,) = of_experts, expert_dims
        # Of the layers after the first, by their number.
        self.norms = {str(i): RMSNorm(mesh, d_model, dtypes) for i in range(1, num_layers)}
        self.layers = {
            str(i): Experts(
                mesh,
                expert_dims,
                d_model,
                dtypes,
                hidden_size=self._hidden.size,
                activations=activations,
                dropout_rate=dropout_rate,
            )
            for i in range(1, num_layers)
        }
        self._first_experts = [sum(numbers[:i]) for i in range(len(numbers))]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        expert = mtf.range(x.mesh, self._experts)

        def mask_of_layer(number: int) -> mtf.Tensor:
            return self._mask(number, expert, self._first_experts)

        y = self.apply(x, mask_of_layer(0), call)
        for number, layer in self.layers.items():
            y = y + layer.apply(self.norms[number](y, call), mask_of_layer(int(number)), call)
        return y

    def of_rows(self, x: mtf.Tensor, sizes: mtf.Tensor, call: Call) -> mtf.Tensor:
        row, expert = mtf.range(x.mesh, x.shape[0]), mtf.range(x.mesh, sizes.shape[0])
        first_rows = [
            mtf.reduce_sum(sizes * mtf.to_int32(mtf.less(expert, first)))
            for first in self._first_experts
        ]

        def mask_of_layer(number: int) -> mtf.Tensor:
            return self._mask(number, row, first_rows)

        y = self.apply_to_rows(x, sizes, mask_of_layer(0), call)
        for number, layer in self.layers.items():
            x = self.norms[number](y, call)
            y = y + layer.apply_to_rows(x, sizes, mask_of_layer(int(number)), call)
        return y

    def _mask(self, layer: int, index: mtf.Tensor, first: Sequence[int | mtf.Tensor]) -> mtf.Tensor:
        """Returns float32 {*index, expert_hidden}: 1 for units in this layer, counted from 0.

        index: int32, of experts or of their rows; first: the first index of each of `sizes`.
        """
        # Of comparisons: DTensor loses the layout of a constant with equal entries.
        units = mtf.zeros_like(index)
        before = 0
        for size, begin in zip(self._sizes, first, strict=True):
            number = size.hidden_size if layer < size.num_layers else 0
            units = units + mtf.to_int32(mtf.greater_equal(index, begin)) * (number - before)
            before = number
        hidden = mtf.range(index.mesh, self._hidden)
        return mtf.to_float(mtf.less(hidden, units, output_shape=[*index.shape, self._hidden]))


def _expert_size(size: Sequence[int]) -> ExpertSize:
    if not 2 <= len(size) <= 3:
        raise InputError(
            f"HeterogeneousExperts.sizes: {size!r} must be (num_experts, hidden_size) or "
            "(num_experts, hidden_size, num_layers)"
        )
    for name, value in zip(ExpertSize._fields, size, strict=False):
        check_range(f"HeterogeneousExperts.sizes: {name}", value, COUNT)
    return ExpertSize(*size)


@dataclasses.dataclass(frozen=True)
class NoTokenLeftBehind:
    """Fedus et al. 2021, arXiv:2101.03961, appendix B; Mesh TensorFlow's "ntlb".

    Every token has one expert, the first of its `top_k` best that has a free slot, with this
    expert's probability as the weight.

    Attributes:
      top_k: how many experts a token tries; at most their number.
      z_loss: the coefficient of the router z-loss.
    """

    top_k: int = 4
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        token_mask = context.full_importance()
        gates = mtf.softmax(logits, experts)
        attempts = mtf.Dimension("attempts", self.top_k)
        attempt_gates, attempt_experts = mtf.top_k(gates, experts, attempts)
        masks = mtf.one_hot(attempt_experts, experts)
        loss = load_balancing_loss(masks, gates, group, experts, token_mask)
        # {..., group} 1.0 for tokens that no expert has taken so far.
        unassigned = token_mask
        used = None
        choices = []
        candidates = (attempt_experts, attempt_gates, masks)
        for expert, gate, mask in zip(*(mtf.unstack(x, attempts) for x in candidates), strict=True):
            position, dispatched, selected, used = position_in_expert(
                apply_mask(mask, unassigned), group, experts, capacity, used
            )
            unassigned = (1.0 if unassigned is None else unassigned) - dispatched
            choices.append(Choice(expert, position, dispatched, selected, gate * dispatched))
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class BatchPrioritized(Switch):
    """`Switch` with the tokens of a group in descending order of their gates.

    Riquelme et al. 2021, arXiv:2106.05974, section 4, with k = 1 and the group for the batch;
    Mesh TensorFlow's "switch_max". The routing of a token depends on the tokens after it in its
    group, which do not exist yet while decoding.

    Attributes:
      policy_training, policy_evaluation, z_loss: see `Switch`.
    """

    def _assign_slots(self, candidate: Candidate, context: GateContext) -> list[Choice]:
        group, experts, capacity = context.dims
        expert, gate, mask = candidate
        rank = mtf.Dimension("rank", group.size)
        token_of_rank, rank_of_token = rank_tokens(gate, group, rank)
        mask_by_rank = mtf.gather_rows(
            mask, [(group, token_of_rank)], token_of_rank.shape + experts
        )
        by_rank = position_in_expert(mask_by_rank, rank, experts, capacity)
        position, dispatched, selected = (
            mtf.gather_rows(x, [(rank, rank_of_token)], rank_of_token.shape)
            for x in (by_rank.position, by_rank.dispatched, by_rank.selected)
        )
        return [Choice(expert, position, dispatched, selected, gate * dispatched)]


@dataclasses.dataclass(frozen=True)
class Top2V1(Top2):
    """Top-2 gating in which the only expert of a token has weight 1, whatever its gate was.

    As in Mesh TensorFlow's `transformer_moe_layer_v1`. A token of importance 1 may have two
    experts, one of less its best.

    Attributes:
      second_policy_training, second_policy_evaluation: as in `Top2`, by the unnormalised gate of
        the second expert.
      second_expert_loss, z_loss: see `Top2`.
    """

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        policy = self.second_policy_training if context.training else self.second_policy_evaluation
        gates = mtf.softmax(logits, context.experts)
        first_mask, second_mask = context.nonpadding(), context.full_importance()
        first, second, gates_without_first = top_2_candidates(gates, context.experts)
        first = first._replace(mask=apply_mask(first.mask, first_mask))
        second = second._replace(mask=apply_mask(second.mask, second_mask))
        loss = top_2_balancing_loss(
            Top2Candidates(first, second, apply_mask(gates_without_first, second_mask)),
            apply_mask(gates, first_mask),
            context,
            second_expert_loss=self.second_expert_loss,
        )
        second = second._replace(mask=second.mask * policy(second.gate, context))
        choices = normalise_gates(dispatch_in_order([first, second], context))
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)


@dataclasses.dataclass(frozen=True)
class TruncatedTop2:
    """`truncated_top_2` of softmax(logits).

    Attributes:
      with_balance_loss: adds the load balancing loss of first choices; the original has none.
    """

    with_balance_loss: bool = False

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        nonpadding = context.nonpadding()
        gates = mtf.softmax(logits, experts)
        choices = truncated_top_2(gates, group, experts, capacity, nonpadding)
        first_mask = apply_mask(mtf.one_hot(choices[0].expert, experts), nonpadding)
        balance_loss = load_balancing_loss(
            first_mask, apply_mask(gates, nonpadding), group, experts
        )
        routing = make_routing(choices, gates, balance_loss, context, logits=logits)
        if self.with_balance_loss:
            return routing
        return dataclasses.replace(routing, loss=mtf.zeros_like(balance_loss))

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 2.0


def truncated_top_2(
    gates: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    capacity: mtf.Dimension,
    token_mask: mtf.Tensor | None = None,
    *,
    allow_negative: bool = False,
) -> tuple[Choice, ...]:
    """Returns the two choices of every token, their gates normalised after capacity.

    As Mesh TensorFlow's `_truncated_top_2_gating_mtf`. The first choices use the slots of an expert
    at an even rate along the group. From the position on at which this uses them up, gates for that
    expert are lowered by 1, and so is a token's gate for the expert that its first choice is
    dispatched to. Hence the second gate is negative where every other expert will be full. Such a
    choice is not made: beside a first gate of the same size it would give weights without bound.

    Args:
      gates: probabilities, with group and experts among its dimensions.
      token_mask: {..., group} 0.0 for tokens without an expert; None for none.
      allow_negative: make negative choices as well, as the original did.
    """
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = apply_mask(mtf.one_hot(expert_1, experts), token_mask)
    position_1, dispatched_1, selected_1, used = position_in_expert(
        mask_1, group, experts, capacity
    )
    use_rate = (used + 1.0) / float(group.size)
    exhausted_at = (float(capacity.size) - used) / use_rate
    index = mtf.range(gates.mesh, group, gates.dtype)
    exhausted = mtf.to_float(mtf.greater(index, exhausted_at, output_shape=gates.shape))
    second_gates = gates - exhausted - mask_1 * dispatched_1
    gate_2, expert_2 = mtf.top_1(second_gates, experts)
    mask_2 = apply_mask(mtf.one_hot(expert_2, experts), token_mask)
    if not allow_negative:
        mask_2 = mask_2 * mtf.to_float(mtf.greater(gate_2, 0.0))
    position_2, dispatched_2, selected_2, _ = position_in_expert(
        mask_2, group, experts, capacity, used
    )
    return normalise_gates(
        [
            Choice(expert_1, position_1, dispatched_1, selected_1, gate_1 * dispatched_1),
            Choice(expert_2, position_2, dispatched_2, selected_2, gate_2 * dispatched_2),
        ]
    )


def normalise_gates(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Returns the choices with gates that add up to 1 for every token that has an expert."""
    choices = tuple(choices)
    scale = mtf.reciprocal(mtf.add_n([choice.gate for choice in choices]) + EPSILON)
    return tuple(dataclasses.replace(choice, gate=choice.gate * scale) for choice in choices)


@dataclasses.dataclass(frozen=True)
class EinsumDispatch:
    """Contracts with {..., group, experts, capacity} tensors, as Mesh TensorFlow does.

    Lepikhin et al. 2020, arXiv:2006.16668, algorithm 2. Costs group * experts * capacity
    multiplications per entry of a row, which grows with the square of the group size.
    """

    def to_slots(self, x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        return mtf.einsum([x, dispatch_tensor(routing, x.dtype)], shape)

    def to_tokens(self, y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
        return mtf.einsum([y, combine_tensor(routing, y.dtype)], shape)

    def gates_of_slots(self, routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
        weights = mtf.to_float(combine_tensor(routing, like.dtype))
        return mtf.stop_gradient(mtf.reduce_sum(weights, output_shape=shape))


def combine_tensor(routing: Routing, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns the weights {..., group, experts, capacity} of slots in a token's output."""
    shape = [*routing.batch, routing.group, routing.experts, routing.capacity]
    weights = []
    for choice in routing.choices:
        expert = mtf.one_hot(choice.expert, routing.experts)
        slot = mtf.one_hot(choice.position, routing.capacity)
        weights.append(mtf.multiply(choice.gate * expert, slot, output_shape=shape))
    return mtf.cast(mtf.add_n(weights), dtype)


def dispatch_tensor(routing: Routing, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns 1 where a token has a slot: {..., group, experts, capacity}."""
    return mtf.cast(mtf.not_equal(combine_tensor(routing, dtype), 0.0), dtype)
