"""Expert choice routing: every expert takes its best tokens."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.capacity import rank_tokens
from mtfrun.models.moe.gate import GateContext, apply_mask, make_routing
from mtfrun.models.moe.routing import Choice, Routing

# Added to the logits of padding.
_MINUS_INFINITY = -1e9


@dataclasses.dataclass(frozen=True)
class ExpertChoice:
    """Zhou et al. 2022, arXiv:2202.09368, as in Mesh TensorFlow 0.1.21 ("expert_selection").

    An expert takes the `capacity` tokens of a group with the largest scores. Unlike in the paper's
    equation 1, scores are normalised over the tokens of a group, and a token's weights are divided
    by the number of its experts. The routing of a token depends on the tokens after it in its
    group, which do not exist yet while decoding. Combining costs as much as a choice for every
    expert.

    Attributes:
      z_loss: the coefficient of the router z-loss.
    """

    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        nonpadding = context.nonpadding()
        masked_logits = logits
        if nonpadding is not None:
            masked_logits = logits + (1.0 - nonpadding) * _MINUS_INFINITY
        scores = mtf.softmax(masked_logits, group)

        # The rank of a token among an expert's tokens is its slot there: {..., experts, group}.
        _, position = rank_tokens(scores, group, mtf.Dimension("rank", group.size))
        dispatched = apply_mask(mtf.to_float(mtf.less(position, capacity.size)), nonpadding)
        experts_of_token = mtf.maximum(mtf.reduce_sum(dispatched, reduced_dim=experts), 1.0)
        weight = mtf.transpose(scores, dispatched.shape) * dispatched / experts_of_token

        choices = []
        for index, (position_e, dispatched_e, weight_e) in enumerate(
            zip(*(mtf.unstack(x, experts) for x in (position, dispatched, weight)), strict=True)
        ):
            expert = mtf.zeros_like(position_e) + index
            choices.append(Choice(expert, position_e, dispatched_e, dispatched_e, weight_e))
        loss = _token_balancing_loss(scores, context)
        gates = mtf.softmax(logits, experts)
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return min(capacity_factor, num_experts)


def _token_balancing_loss(scores: mtf.Tensor, context: GateContext) -> mtf.Tensor:
    # Smallest, 1, where experts spread their scores over the tokens.
    mean_score = mtf.reduce_mean(scores, reduced_dim=context.experts)
    square = mtf.square(apply_mask(mean_score, context.full_importance()))
    size = float(context.group.size)
    if context.importance is None:
        return mtf.reduce_mean(square) * size * size
    tokens = mtf.reduce_sum(context.importance, reduced_dim=context.group)
    return mtf.reduce_mean(square * tokens) * size
