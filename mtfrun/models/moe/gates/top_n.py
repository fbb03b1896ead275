"""Top-n gating: the n best experts of every token."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.gates.gate import GateContext, make_routing, masked
from mtfrun.models.moe.gates.losses import load_balancing_loss
from mtfrun.models.moe.gates.position_in_expert import EPSILON, Candidate, dispatch_in_order
from mtfrun.models.moe.gates.second_expert_policy import Random, SecondExpertPolicy, Threshold
from mtfrun.models.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class TopN:
    """Shazeer et al. 2017, arXiv:1701.06538, equations 3 and 5 without noise, and with capacity.

    A token of any importance has up to n experts. The gates are normalised over these before
    capacity drops any.

    Attributes:
      num_experts: n.
      second_policy_training, second_policy_evaluation: which tokens have a second, third, ...
        expert, by its normalised gate. The policy of evaluation must not draw random numbers.
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
            mask = masked(mtf.one_hot(expert, experts), nonpadding)
            remaining = remaining * (1.0 - mask)
            top_n.append(Candidate(expert, masked(gate, nonpadding), mask))
        gates_that_count = masked(gates, context.full_importance())
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
