"""Switch gating in which an expert keeps the tokens that want it most."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.balance import balance_loss_masked_last
from mtfrun.models.moe.expert_choice import Best, ExpertChoice
from mtfrun.models.moe.queueing import queue
from mtfrun.models.moe.routing import Choice, Routing, make_routing


def switch_max(
    logits: mtf.Tensor, assignment: Assignment, choose: ExpertChoice, *, z_loss: float = 0.0
) -> Routing:
    """Returns `switch` with tokens queueing in the order of their gates, largest first.

    Args: those of `switch`.
    """
    group, experts, capacity = assignment.dims
    gates = mtf.softmax(logits, experts)
    expert = choose(logits, assignment)
    one_hot = mtf.one_hot(expert, experts)
    mask = masked(one_hot, assignment.full())
    gate = mtf.reduce_sum(gates * mask, reduced_dim=experts)
    rank, by_rank = mtf.Dimension("rank", group.size), mtf.Dimension("by_rank", group.size)
    _, token_of_rank = mtf.top_k(mtf.stop_gradient(gate), group, rank)
    rank_of_token = mtf.rename_dimension(
        inverse_permutation(token_of_rank, rank, by_rank), by_rank.name, group.name
    )
    in_order = mtf.gather_rows(mask, [(group, token_of_rank)], token_of_rank.shape + experts)
    position, kept, wanted = (
        mtf.gather_rows(x, [(rank, rank_of_token)], rank_of_token.shape)
        for x in queue(in_order, rank, experts, capacity)[:3]
    )
    balance = balance_loss_masked_last(one_hot, gates, assignment)
    choice = Choice(expert, position, kept, wanted, gate * kept)
    return make_routing([choice], gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


def inverse_permutation(
    permutation: mtf.Tensor, dim: mtf.Dimension, new_dim: mtf.Dimension
) -> mtf.Tensor:
    """Returns p {..., new_dim} with p[permutation[i]] = i along `dim`; new_dim comes last."""
    _, inverse = mtf.top_k(mtf.negative(permutation), dim, new_dim)
    return inverse


@dataclasses.dataclass(frozen=True)
class SwitchMax:
    """`switch_max` with its settings, which are those of `Switch`."""

    choose_training: ExpertChoice = Best()
    choose_evaluation: ExpertChoice = Best()
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        choose = self.choose_training if assignment.training else self.choose_evaluation
        return switch_max(logits, assignment, choose, z_loss=self.z_loss)
