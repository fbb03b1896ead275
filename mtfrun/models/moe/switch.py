"""Switch gating: one expert a token."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.balance import balance_loss_masked_last, with_z_loss
from mtfrun.models.moe.expert_choice import Best, ExpertChoice
from mtfrun.models.moe.gate import Assignment, masked
from mtfrun.models.moe.routing import Choice, Routing, queue


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
    group, experts, capacity = assignment.dims
    gates = mtf.softmax(logits, experts)
    expert = choose(logits, assignment)
    one_hot = mtf.one_hot(expert, experts)
    gate = mtf.reduce_sum(gates * one_hot, reduced_dim=experts)
    mask = masked(one_hot, assignment.full())
    position, kept, wanted, _ = queue(mask, group, experts, capacity)
    balance = balance_loss_masked_last(one_hot, gates, assignment)
    return Routing(
        choices=(Choice(expert, position, kept, wanted, gate * kept),),
        group=group,
        experts=experts,
        capacity=capacity,
        gates=gates,
        loss=with_z_loss(balance, logits, z_loss, assignment),
        balance_loss=balance,
    )


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
