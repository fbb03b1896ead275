"""Further gates of Mesh TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.models.moe.auxiliary_losses import load_balancing_loss
from mtfrun.models.moe.capacity import (
    EPSILON,
    Candidate,
    dispatch,
    dispatch_in_order,
    position_in_expert,
    rank_tokens,
)
from mtfrun.models.moe.gates import (
    Random,
    SecondExpertPolicy,
    Switch,
    Threshold,
    Top2,
    Top2Candidates,
    top_2_balancing_loss,
    top_2_candidates,
)
from mtfrun.models.moe.routing import Choice, GateContext, Routing, apply_mask, make_routing


@dataclasses.dataclass(frozen=True)
class BatchPrioritized(Switch):
    """`Switch` that assigns slots in descending order of the gates.

    Riquelme et al. 2021, arXiv:2106.05974, section 4, with k = 1 over groups; Mesh TensorFlow's
    "switch_max". A token's routing depends on later tokens, which decoding does not have.

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
class NoTokenLeftBehind:
    """Fedus et al. 2021, arXiv:2101.03961, appendix B; Mesh TensorFlow's "ntlb".

    Each token goes to the first of its `top_k` best experts with a free slot, weighted by that
    expert's probability.

    Attributes:
      top_k: the number of experts that a token tries, at most all.
      z_loss: the coefficient of the router z-loss.
    """

    top_k: int = 4
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, token_mask = context.group, context.experts, context.full_importance()
        gates = mtf.softmax(logits, experts)
        attempts = mtf.Dimension("attempts", self.top_k)
        attempt_gates, attempt_experts = mtf.top_k(gates, experts, attempts)
        masks = mtf.one_hot(attempt_experts, experts)
        loss = load_balancing_loss(masks, gates, group, experts, token_mask)
        # {..., group} 1.0 for tokens without an expert so far.
        unassigned = token_mask
        used = None
        choices = []
        candidates = (attempt_experts, attempt_gates, masks)
        for expert, gate, mask in zip(*(mtf.unstack(x, attempts) for x in candidates), strict=True):
            candidate = Candidate(expert, gate, apply_mask(mask, unassigned))
            choice, used = dispatch(candidate, context, used)
            unassigned = (1.0 if unassigned is None else unassigned) - choice.dispatched
            choices.append(choice)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class Top2V1(Top2):
    """Top-2 gating in which a token's only expert has weight 1, whatever its gate was.

    As in Mesh TensorFlow's `transformer_moe_layer_v1`. Tokens of importance below 1 have only their
    best expert.

    Attributes:
      second_policy_training, second_policy_evaluation: see `Top2`; they read unnormalised gates.
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
    """`truncated_top_2` of softmax(logits); the load balancing loss is not trained with."""

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        experts, nonpadding = context.experts, context.nonpadding()
        gates = mtf.softmax(logits, experts)
        choices = truncated_top_2(gates, context)
        first_mask = apply_mask(mtf.one_hot(choices[0].expert, experts), nonpadding)
        counted_gates = apply_mask(gates, nonpadding)
        balance_loss = load_balancing_loss(first_mask, counted_gates, context.group, experts)
        routing = make_routing(choices, gates, balance_loss, context, logits=logits)
        return dataclasses.replace(routing, loss=mtf.zeros_like(balance_loss))

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 2.0


def truncated_top_2(
    gates: mtf.Tensor, context: GateContext, *, allow_negative: bool = False
) -> tuple[Choice, ...]:
    """Returns the two choices of every token, with gates normalised after capacity.

    Mesh TensorFlow's `_truncated_top_2_gating_mtf`. It extrapolates where along the group first
    choices fill an expert; from there on the expert's gates are lowered by 1, as is a token's gate
    for its first expert. The second gate is thus negative where every other expert will be full;
    that choice is dropped, since normalising by the sum of both gates would be unbounded.

    Args:
      gates: probabilities {..., group, experts}.
      allow_negative: whether negative choices are made, as in the original.
    """
    group, experts, capacity = context.dims
    nonpadding = context.nonpadding()
    gate, expert = mtf.top_1(gates, experts)
    first_mask = apply_mask(mtf.one_hot(expert, experts), nonpadding)
    first, used = dispatch(Candidate(expert, gate, first_mask), context)
    use_rate = (used + 1.0) / float(group.size)
    exhausted_at = (float(capacity.size) - used) / use_rate
    index = mtf.range(gates.mesh, group, gates.dtype)
    exhausted = mtf.to_float(mtf.greater(index, exhausted_at, output_shape=gates.shape))
    gate, expert = mtf.top_1(gates - exhausted - first_mask * first.dispatched, experts)
    second_mask = apply_mask(mtf.one_hot(expert, experts), nonpadding)
    if not allow_negative:
        second_mask = second_mask * mtf.to_float(mtf.greater(gate, 0.0))
    second, _ = dispatch(Candidate(expert, gate, second_mask), context, used)
    return normalise_gates([first, second])


def normalise_gates(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Scales the gates of each token that has an expert to a sum of 1."""
    choices = tuple(choices)
    scale = mtf.reciprocal(mtf.add_n([choice.gate for choice in choices]) + EPSILON)
    return tuple(dataclasses.replace(choice, gate=choice.gate * scale) for choice in choices)


@dataclasses.dataclass(frozen=True)
class TopN:
    """Shazeer et al. 2017, arXiv:1701.06538, equations 3 and 5 without noise, and with capacity.

    Tokens of any importance have up to n experts, with gates normalised before capacity.

    Attributes:
      num_experts: n.
      second_policy_training, second_policy_evaluation: the policies that grant each expert after
        the first, by its normalised gate; evaluation must be deterministic.
      z_loss: the coefficient of the router z-loss.
    """

    num_experts: int = 3
    second_policy_training: SecondExpertPolicy = Random()
    second_policy_evaluation: SecondExpertPolicy = Threshold()
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        policy = self.second_policy_training if context.training else self.second_policy_evaluation
        group, experts, nonpadding = context.group, context.experts, context.nonpadding()
        gates = mtf.softmax(logits, experts)
        remaining = gates
        top_n = []
        for _ in range(self.num_experts):
            gate, expert = mtf.top_1(remaining, experts)
            mask = apply_mask(mtf.one_hot(expert, experts), nonpadding)
            remaining = remaining * (1.0 - mask)
            top_n.append(Candidate(expert, apply_mask(gate, nonpadding), mask))
        gates_that_count = apply_mask(gates, context.full_importance())
        loss = load_balancing_loss(top_n[0].mask, gates_that_count, group, experts)

        scale = mtf.reciprocal(mtf.add_n([candidate.gate for candidate in top_n]) + EPSILON)
        if self.num_experts == 1:
            scale = mtf.ones_like(scale)
        candidates = []
        for rank, (expert, gate, mask) in enumerate(top_n, start=1):
            gate = gate * scale
            if rank > 1:
                mask = mask * policy(gate, context, rank)
            candidates.append(Candidate(expert, gate, mask))
        choices = dispatch_in_order(candidates, context)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return float(min(self.num_experts, num_experts))
