"""Switch gating: one expert a token."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.balance import balance_loss_masked_last
from mtfrun.models.moe.expert_choice import Best, ExpertChoice
from mtfrun.models.moe.queueing import Candidate, queue_in_order
from mtfrun.models.moe.routing import Routing, make_routing


def switch(
    logits: mtf.Tensor, assignment: Assignment, choose: ExpertChoice, *, z_loss: float = 0.0
) -> Routing:
    """Returns the routing of Fedus et al. 2021, arXiv:2101.03961, section 2.1.

    Tokens come in the order of their positions; those that find their expert full visit none.

    Args:
      logits: {..., group, experts} float32.
      assignment: the dimensions, importance, training.
      choose: picks the expert.
      z_loss: the coefficient of the z-loss, in training.
    """
    gates = mtf.softmax(logits, assignment.experts)
    expert = choose(logits, assignment)
    one_hot = mtf.one_hot(expert, assignment.experts)
    gate = mtf.reduce_sum(gates * one_hot, reduced_dim=assignment.experts)
    candidate = Candidate(expert, gate, masked(one_hot, assignment.full()))
    choices = queue_in_order([candidate], assignment)
    balance = balance_loss_masked_last(one_hot, gates, assignment)
    return make_routing(choices, gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


@dataclasses.dataclass(frozen=True)
class Switch:
    """`switch` with its settings.

    Args:
      choose_training, choose_evaluation: pick the expert. The evaluation's must not draw.
      z_loss: the coefficient of the z-loss.
    """

    choose_training: ExpertChoice = Best()
    choose_evaluation: ExpertChoice = Best()
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        choose = self.choose_training if assignment.training else self.choose_evaluation
        return switch(logits, assignment, choose, z_loss=self.z_loss)
