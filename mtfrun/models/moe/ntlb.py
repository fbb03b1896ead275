"""No token left behind: who finds an expert full tries the next best."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.balance import balance_loss_masked_last
from mtfrun.models.moe.queueing import queue
from mtfrun.models.moe.routing import Choice, Routing, make_routing


def ntlb(
    logits: mtf.Tensor, assignment: Assignment, *, top_k: int = 4, z_loss: float = 0.0
) -> Routing:
    """Returns the routing of Fedus et al. 2021, arXiv:2101.03961, appendix B.

    Every token visits one expert: the best with room when its turn comes, among its `top_k` best.
    The weight is the probability of that expert.

    Args:
      logits: {..., group, experts} float32.
      assignment: the dimensions, importance, training.
      top_k: how many experts a token tries; at most all.
      z_loss: the coefficient of the z-loss, in training.
    """
    group, experts, capacity = assignment.dims
    gates = mtf.softmax(logits, experts)
    attempts = mtf.Dimension("attempts", top_k)
    attempt_gates, attempt_experts = mtf.top_k(gates, experts, attempts)
    masks = mtf.one_hot(attempt_experts, experts)
    balance = balance_loss_masked_last(masks, gates, assignment)
    waiting = assignment.full()
    taken = None
    choices = []
    for mask, gate, expert in zip(
        mtf.unstack(masks, attempts),
        mtf.unstack(attempt_gates, attempts),
        mtf.unstack(attempt_experts, attempts),
        strict=True,
    ):
        position, kept, wanted, taken = queue(
            masked(mask, waiting), group, experts, capacity, taken
        )
        waiting = (1.0 if waiting is None else waiting) - kept
        choices.append(Choice(expert, position, kept, wanted, gate * kept))
    return make_routing(choices, gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


@dataclasses.dataclass(frozen=True)
class Ntlb:
    """`ntlb` with its settings."""

    top_k: int = 4
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        return ntlb(logits, assignment, top_k=self.top_k, z_loss=self.z_loss)
