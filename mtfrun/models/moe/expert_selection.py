"""Experts choose their tokens."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.routing import Choice, Routing, make_routing
from mtfrun.models.moe.switch_max import inverse_permutation

# Added to the logits of padding.
_MINUS_INFINITY = -1e9


def expert_selection(logits: mtf.Tensor, assignment: Assignment, *, z_loss: float = 0.0) -> Routing:
    """Returns the routing in which every expert takes the `capacity` tokens it likes best.

    Zhou et al. 2022, arXiv:2202.09368, as in Mesh TensorFlow 0.1.21: probabilities are normalised
    over the tokens of a group, and a token's weights are divided by the number of its experts.
    What a token gets depends on the tokens after it in its group: not for decoding.

    Its routing has as many choices as there are experts, and combining is as expensive.

    Args:
      logits: {..., group, experts} float32.
      assignment: the dimensions, importance, training.
      z_loss: the coefficient of the z-loss, in training.
    """
    group, experts, capacity = assignment.dims
    masked_logits = logits
    full, present = assignment.full(), assignment.present()
    if present is not None:
        masked_logits = logits + (1.0 - present) * _MINUS_INFINITY
    shares = mtf.softmax(masked_logits, group)

    rank = mtf.Dimension("rank", group.size)
    by_rank = mtf.Dimension("by_rank", group.size)
    _, token_of_rank = mtf.top_k(mtf.stop_gradient(shares), group, rank)
    position = mtf.rename_dimension(
        inverse_permutation(token_of_rank, rank, by_rank), by_rank.name, group.name
    )
    kept = masked(mtf.to_float(mtf.less(position, capacity.size)), present)
    visits = mtf.maximum(mtf.reduce_sum(kept, reduced_dim=experts), 1.0)
    weight = mtf.transpose(shares, kept.shape) * kept / visits

    choices = []
    for e, (position_e, kept_e, weight_e) in enumerate(
        zip(*(mtf.unstack(x, experts) for x in (position, kept, weight)), strict=True)
    ):
        expert = mtf.zeros_like(position_e) + e
        choices.append(Choice(expert, position_e, kept_e, kept_e, weight_e))
    balance = _token_balance_loss(shares, assignment, full)
    gates = mtf.softmax(logits, experts)
    return make_routing(choices, gates, balance, assignment, logits=logits, z_loss_coef=z_loss)


def _token_balance_loss(
    shares: mtf.Tensor, assignment: Assignment, full: mtf.Tensor | None
) -> mtf.Tensor:
    """Returns what pushes experts to share their interest among the tokens; 1 where they do."""
    interest = masked(mtf.reduce_mean(shares, reduced_dim=assignment.experts), full)
    square = mtf.square(interest)
    size = float(assignment.group.size)
    if assignment.importance is None:
        return mtf.reduce_mean(square) * size * size
    tokens = mtf.reduce_sum(assignment.importance, reduced_dim=assignment.group)
    return mtf.reduce_mean(square * tokens) * size


@dataclasses.dataclass(frozen=True)
class ExpertSelection:
    """`expert_selection` with its settings."""

    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        return expert_selection(logits, assignment, z_loss=self.z_loss)
