"""Top-n gating: the best n experts of every token."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.balance import balance_loss
from mtfrun.models.moe.queueing import EPSILON, Candidate, queue_in_order
from mtfrun.models.moe.routing import Routing, make_routing
from mtfrun.models.moe.second_place import Random, SecondPlacePolicy, Threshold


def top_n(
    logits: mtf.Tensor,
    assignment: Assignment,
    later_places: SecondPlacePolicy,
    *,
    num_experts: int = 3,
    z_loss: float = 0.0,
) -> Routing:
    """Returns the routing to the `num_experts` best experts of every token of any importance.

    The gates are normalised over these before anything is dropped.

    Args:
      logits: {..., group, experts} float32.
      assignment: the dimensions, importance, training.
      later_places: which tokens visit their second, third, ... expert, by its normalised gate.
      num_experts: n.
      z_loss: the coefficient of the z-loss, in training.
    """
    experts, present = assignment.experts, assignment.present()
    gates = mtf.softmax(logits, experts)
    left = gates
    best = []
    for _ in range(num_experts):
        gate, expert = mtf.top_1(left, experts)
        mask = masked(mtf.one_hot(expert, experts), present)
        left = left * (1.0 - mask)
        best.append(Candidate(expert, masked(gate, present), mask))
    balance = balance_loss(best[0].mask, masked(gates, assignment.full()), assignment)

    scale = mtf.reciprocal(mtf.add_n([candidate.gate for candidate in best]) + EPSILON)
    if num_experts == 1:
        scale = mtf.ones_like(scale)
    candidates = []
    for place, (expert, gate, mask) in enumerate(best, start=1):
        gate = gate * scale
        if place > 1:
            mask = mask * later_places(gate, assignment, place)
        candidates.append(Candidate(expert, gate, mask))
    choices = queue_in_order(candidates, assignment)
    return make_routing(choices, gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


@dataclasses.dataclass(frozen=True)
class TopN:
    """`top_n` with its settings.

    Args:
      num_experts: n.
      later_places_training, later_places_evaluation: which tokens visit more than one expert. The
        evaluation's must not draw random numbers.
      z_loss: the coefficient of the z-loss.
    """

    num_experts: int = 3
    later_places_training: SecondPlacePolicy = Random()
    later_places_evaluation: SecondPlacePolicy = Threshold()
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        return top_n(
            logits,
            assignment,
            self.later_places_training if assignment.training else self.later_places_evaluation,
            num_experts=self.num_experts,
            z_loss=self.z_loss,
        )
