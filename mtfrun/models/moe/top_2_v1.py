"""Top-2 gating as it was first: gates are normalised after tokens were dropped."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.balance import balance_loss, with_z_loss
from mtfrun.models.moe.gate import Assignment, masked
from mtfrun.models.moe.routing import Choice, Routing, queue
from mtfrun.models.moe.second_place import Random, SecondPlacePolicy, Threshold
from mtfrun.models.moe.top_2 import EPSILON, second_balance_loss


def top_2_v1(
    logits: mtf.Tensor,
    assignment: Assignment,
    second_place: SecondPlacePolicy,
    *,
    max_experts: mtf.Tensor | None = None,
    second_place_loss: bool = False,
    z_loss: float = 0.0,
) -> Routing:
    """Returns the routing in which a token's only expert weighs 1, whatever its gate was.

    Args:
      logits: {..., group, experts} float32.
      assignment: the dimensions and training; not its importance.
      second_place: which tokens visit a second expert, by its raw gate.
      max_experts: {..., group} float32, how many experts a token may visit: 0, 1 or 2; None for 2.
      second_place_loss: whether second choices are balanced as well, with half the weight.
      z_loss: the coefficient of the z-loss, in training.
    """
    group, experts, capacity = assignment.dims
    gates = mtf.softmax(logits, experts)
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = mtf.one_hot(expert_1, experts)
    others = gates * (1.0 - mask_1)
    gate_2, expert_2 = mtf.top_1(others, experts)
    mask_2 = mtf.one_hot(expert_2, experts)
    proxy = gates
    if max_experts is not None:
        one = mtf.to_float(mtf.greater_equal(max_experts, 1.0))
        two = mtf.to_float(mtf.greater_equal(max_experts, 2.0))
        mask_1, proxy = masked(mask_1, one), masked(proxy, one)
        mask_2, others = masked(mask_2, two), masked(others, two)

    balance = balance_loss(mask_1, proxy, assignment)
    if second_place_loss:
        balance = balance + 0.5 * second_balance_loss(mask_2, others, assignment)

    mask_2 = mask_2 * second_place(gate_2, assignment)
    position_1, kept_1, wanted_1, taken = queue(mask_1, group, experts, capacity)
    position_2, kept_2, wanted_2, _ = queue(mask_2, group, experts, capacity, taken)
    gate_1, gate_2 = gate_1 * kept_1, gate_2 * kept_2
    scale = mtf.reciprocal(gate_1 + gate_2 + EPSILON)
    return Routing(
        choices=(
            Choice(expert_1, position_1, kept_1, wanted_1, gate_1 * scale),
            Choice(expert_2, position_2, kept_2, wanted_2, gate_2 * scale),
        ),
        group=group,
        experts=experts,
        capacity=capacity,
        gates=gates,
        loss=with_z_loss(balance, logits, z_loss, assignment),
        balance_loss=balance,
    )


@dataclasses.dataclass(frozen=True)
class Top2V1:
    """`top_2_v1` with its settings; importance 1 allows two experts, between 0 and 1 one.

    Args: those of `Top2`.
    """

    second_place_training: SecondPlacePolicy = Random()
    second_place_evaluation: SecondPlacePolicy = Threshold()
    second_place_loss: bool = False
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        full, present = assignment.full(), assignment.present()
        return top_2_v1(
            logits,
            assignment,
            self.second_place_training if assignment.training else self.second_place_evaluation,
            max_experts=None if full is None or present is None else full + present,
            second_place_loss=self.second_place_loss,
            z_loss=self.z_loss,
        )
