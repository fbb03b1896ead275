"""The two experts that a token likes best."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.balance import balance_loss
from mtfrun.models.moe.queueing import EPSILON, Candidate


class TwoBest(NamedTuple):
    """What a token may visit.

    first, second: the candidates, their gates not normalised.
    others: {..., group, experts} the gates without the first choice.
    """

    first: Candidate
    second: Candidate
    others: mtf.Tensor


def two_best(
    gates: mtf.Tensor,
    experts: mtf.Dimension,
    full: mtf.Tensor | None = None,
    present: mtf.Tensor | None = None,
) -> TwoBest:
    """Returns the best expert and the best of the others.

    Args:
      gates: probabilities {..., group, experts}.
      experts: the dimension.
      full: {..., group} 0.0 for tokens without a first choice, whose best is then the second; None
        for none.
      present: {..., group} 0.0 for tokens without a second choice; None for none.
    """
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = masked(mtf.one_hot(expert_1, experts), full)
    others = gates * (1.0 - mask_1)
    gate_2, expert_2 = mtf.top_1(others, experts)
    mask_2 = masked(mtf.one_hot(expert_2, experts), present)
    return TwoBest(
        Candidate(expert_1, masked(gate_1, full), mask_1),
        Candidate(expert_2, gate_2, mask_2),
        others,
    )


def balance_of_two(
    best: TwoBest, proxy: mtf.Tensor, assignment: Assignment, *, second_place_loss: bool
) -> mtf.Tensor:
    """Returns the balance loss of first choices, and half of that of second ones if wanted.

    Both are of what tokens want, before policy and capacity drop any.

    Args:
      best: the candidates.
      proxy: {..., group, experts} the gates of the tokens that count.
      assignment: the dimensions.
      second_place_loss: whether second choices are balanced as well.
    """
    balance = balance_loss(best.first.mask, proxy, assignment)
    if not second_place_loss:
        return balance
    total = mtf.reduce_sum(best.others, reduced_dim=assignment.experts) + EPSILON
    second = balance_loss(best.second.mask, best.others * mtf.reciprocal(total), assignment)
    return balance + 0.5 * second
