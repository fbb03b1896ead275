"""Top-2 gating: every token visits its best expert, and often its second best."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.balance import balance_loss, with_z_loss
from mtfrun.models.moe.gate import Assignment, masked
from mtfrun.models.moe.routing import Choice, Routing, queue
from mtfrun.models.moe.second_place import Random, SecondPlacePolicy, Threshold

# Added to sums of gates before a division.
EPSILON = 1e-9


def top_2(
    logits: mtf.Tensor,
    assignment: Assignment,
    second_place: SecondPlacePolicy,
    *,
    second_place_loss: bool = False,
    z_loss: float = 0.0,
) -> Routing:
    """Returns the routing of Shazeer et al. 2017, arXiv:1701.06538, as in GShard's algorithm 1.

    The two gates are normalised before anything is dropped, and never again. A token of importance
    below 1 has no first expert: its best one comes in through the second slot.

    Args:
      logits: {..., group, experts} float32.
      assignment: the dimensions, importance, training.
      second_place: which tokens visit a second expert, by its normalised gate.
      second_place_loss: whether second choices are balanced as well, with half the weight.
      z_loss: the coefficient of the z-loss, in training.
    """
    group, experts, capacity = assignment.dims
    full, present = assignment.full(), assignment.present()
    gates = mtf.softmax(logits, experts)
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = masked(mtf.one_hot(expert_1, experts), full)
    gate_1 = masked(gate_1, full)
    others = gates * (1.0 - mask_1)
    gate_2, expert_2 = mtf.top_1(others, experts)
    mask_2 = masked(mtf.one_hot(expert_2, experts), present)
    scale = mtf.reciprocal(gate_1 + gate_2 + EPSILON)
    gate_1, gate_2 = gate_1 * scale, gate_2 * scale

    balance = balance_loss(mask_1, masked(gates, full), assignment)
    if second_place_loss:
        balance = balance + 0.5 * second_balance_loss(mask_2, others, assignment)

    mask_2 = mask_2 * second_place(gate_2, assignment)
    position_1, kept_1, wanted_1, taken = queue(mask_1, group, experts, capacity)
    position_2, kept_2, wanted_2, _ = queue(mask_2, group, experts, capacity, taken)
    return Routing(
        choices=(
            Choice(expert_1, position_1, kept_1, wanted_1, gate_1 * kept_1),
            Choice(expert_2, position_2, kept_2, wanted_2, gate_2 * kept_2),
        ),
        group=group,
        experts=experts,
        capacity=capacity,
        gates=gates,
        loss=with_z_loss(balance, logits, z_loss, assignment),
        balance_loss=balance,
    )


def second_balance_loss(
    mask_2: mtf.Tensor, others: mtf.Tensor, assignment: Assignment
) -> mtf.Tensor:
    """Returns the balance loss of second choices, before policy and capacity drop any.

    Args:
      mask_2: {..., group, experts} 1.0 at a token's second expert.
      others: {..., group, experts} the gates without the first choice, not normalised.
      assignment: the dimensions.
    """
    total = mtf.reduce_sum(others, reduced_dim=assignment.experts) + EPSILON
    return balance_loss(mask_2, others * mtf.reciprocal(total), assignment)


@dataclasses.dataclass(frozen=True)
class Top2:
    """`top_2` with its settings.

    Args:
      second_place_training, second_place_evaluation: which tokens visit a second expert. The
        evaluation's must not draw random numbers.
      second_place_loss: whether second choices are balanced as well.
      z_loss: the coefficient of the z-loss.
    """

    second_place_training: SecondPlacePolicy = Random()
    second_place_evaluation: SecondPlacePolicy = Threshold()
    second_place_loss: bool = False
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        return top_2(
            logits,
            assignment,
            self.second_place_training if assignment.training else self.second_place_evaluation,
            second_place_loss=self.second_place_loss,
            z_loss=self.z_loss,
        )
