"""Top-2 gating: every token has its best expert, and often its second best."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

from mtfrun import mtf
from mtfrun.models.moe.capacity import EPSILON, Candidate, dispatch_in_order
from mtfrun.models.moe.gate import GateContext, apply_mask, load_balancing_loss, make_routing
from mtfrun.models.moe.routing import Routing


class SecondExpertPolicy(Protocol):
    """Decides by the gate of a token's second (third, ...) expert whether it has this expert."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        """Returns {..., group}: 1.0 where a token may have its expert number `rank`, else 0.0."""


@dataclasses.dataclass(frozen=True)
class All:
    """Every token."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.ones_like(gate)


@dataclasses.dataclass(frozen=True)
class Never:
    """No token."""

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.zeros_like(gate)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Tokens whose gate is larger than `threshold`."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        return mtf.to_float(mtf.greater(gate, self.threshold))


@dataclasses.dataclass(frozen=True)
class Random:
    """Tokens with probability min(1, gate / threshold); arXiv:2006.16668, algorithm 1."""

    threshold: float = 0.2

    def __call__(self, gate: mtf.Tensor, context: GateContext, rank: int = 2) -> mtf.Tensor:
        # The text seeds the draws: another one would change seeded results.
        key = context.key_for(self, f"the second-place policy Random, place {rank}")
        draw = mtf.random_uniform(gate.mesh, gate.shape, key=key)
        return mtf.to_float(mtf.less(draw, gate / max(self.threshold, 1e-9)))


@dataclasses.dataclass(frozen=True)
class Top2:
    """Shazeer et al. 2017, arXiv:1701.06538, as in GShard, arXiv:2006.16668, algorithm 1.

    The two gates are normalised before capacity drops any, and not after it. A token of importance
    below 1 has no first expert: its best expert is its second.

    Attributes:
      second_policy_training, second_policy_evaluation: which tokens have a second expert, by its
        normalised gate. The policy of evaluation must not draw random numbers.
      second_expert_loss: whether second choices are balanced as well, with half the weight.
      z_loss: the coefficient of the router z-loss.
    """

    second_policy_training: SecondExpertPolicy = Random()
    second_policy_evaluation: SecondExpertPolicy = Threshold()
    second_expert_loss: bool = False
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        policy = self.second_policy_training if context.training else self.second_policy_evaluation
        full = context.full_importance()
        gates = mtf.softmax(logits, context.experts)
        top_2 = top_2_candidates(gates, context.experts, full, context.nonpadding())
        loss = top_2_balancing_loss(
            top_2, apply_mask(gates, full), context, second_expert_loss=self.second_expert_loss
        )
        scale = mtf.reciprocal(top_2.first.gate + top_2.second.gate + EPSILON)
        first, second = (
            Candidate(expert, gate * scale, mask)
            for expert, gate, mask in (top_2.first, top_2.second)
        )
        second = second._replace(mask=second.mask * policy(second.gate, context))
        choices = dispatch_in_order([first, second], context)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 2.0


class Top2Candidates(NamedTuple):
    """The two best experts, gates not normalised; `gates_without_first` are 0 at the first."""

    first: Candidate
    second: Candidate
    gates_without_first: mtf.Tensor


def top_2_candidates(
    gates: mtf.Tensor,
    experts: mtf.Dimension,
    first_mask: mtf.Tensor | None = None,
    second_mask: mtf.Tensor | None = None,
) -> Top2Candidates:
    """Returns the best and the second best expert by probabilities {..., group, experts}.

    `first_mask` {..., group} is 0.0 for tokens without a first expert, whose best one is then the
    second, `second_mask` for tokens without a second expert.
    """
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = apply_mask(mtf.one_hot(expert_1, experts), first_mask)
    gates_without_first = gates * (1.0 - mask_1)
    gate_2, expert_2 = mtf.top_1(gates_without_first, experts)
    mask_2 = apply_mask(mtf.one_hot(expert_2, experts), second_mask)
    return Top2Candidates(
        Candidate(expert_1, apply_mask(gate_1, first_mask), mask_1),
        Candidate(expert_2, gate_2, mask_2),
        gates_without_first,
    )


def top_2_balancing_loss(
    top_2: Top2Candidates, gates: mtf.Tensor, context: GateContext, *, second_expert_loss: bool
) -> mtf.Tensor:
    """Returns the loss of first candidates, plus half the loss of second ones if asked for."""
    group, experts = context.group, context.experts
    balance_loss = load_balancing_loss(top_2.first.mask, gates, group, experts)
    if not second_expert_loss:
        return balance_loss
    total = mtf.reduce_sum(top_2.gates_without_first, reduced_dim=experts) + EPSILON
    second_gates = top_2.gates_without_first * mtf.reciprocal(total)
    return balance_loss + 0.5 * load_balancing_loss(top_2.second.mask, second_gates, group, experts)
