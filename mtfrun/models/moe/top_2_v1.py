"""Top-2 gating as it was first: gates are normalised after tokens were dropped."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.queueing import normalised, queue_in_order
from mtfrun.models.moe.routing import Routing, make_routing
from mtfrun.models.moe.second_place import Random, SecondPlacePolicy, Threshold
from mtfrun.models.moe.two_best import TwoBest, balance_of_two, two_best


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
    gates = mtf.softmax(logits, assignment.experts)
    best = two_best(gates, assignment.experts)
    proxy = gates
    if max_experts is not None:
        one = mtf.to_float(mtf.greater_equal(max_experts, 1.0))
        two = mtf.to_float(mtf.greater_equal(max_experts, 2.0))
        proxy = masked(gates, one)
        best = TwoBest(
            best.first._replace(mask=masked(best.first.mask, one)),
            best.second._replace(mask=masked(best.second.mask, two)),
            masked(best.others, two),
        )
    balance = balance_of_two(best, proxy, assignment, second_place_loss=second_place_loss)
    second = best.second._replace(
        mask=best.second.mask * second_place(best.second.gate, assignment)
    )
    choices = normalised(queue_in_order([best.first, second], assignment))
    return make_routing(choices, gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


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
