"""Top-2 gating: every token visits its best expert, and often its second best."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.queueing import EPSILON, Candidate, queue_in_order
from mtfrun.models.moe.routing import Routing, make_routing
from mtfrun.models.moe.second_place import Random, SecondPlacePolicy, Threshold
from mtfrun.models.moe.two_best import balance_of_two, two_best


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
    full = assignment.full()
    gates = mtf.softmax(logits, assignment.experts)
    best = two_best(gates, assignment.experts, full, assignment.present())
    balance = balance_of_two(
        best, masked(gates, full), assignment, second_place_loss=second_place_loss
    )
    scale = mtf.reciprocal(best.first.gate + best.second.gate + EPSILON)
    first, second = (
        Candidate(expert, gate * scale, mask) for expert, gate, mask in (best.first, best.second)
    )
    second = second._replace(mask=second.mask * second_place(second.gate, assignment))
    choices = queue_in_order([first, second], assignment)
    return make_routing(choices, gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


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
