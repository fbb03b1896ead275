"""No-Token-Left-Behind routing: a token whose expert is full tries its next best expert."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.capacity import position_in_expert
from mtfrun.models.moe.gate import GateContext, apply_mask, make_routing
from mtfrun.models.moe.losses import load_balancing_loss
from mtfrun.models.moe.routing import Choice, Routing


@dataclasses.dataclass(frozen=True)
class NoTokenLeftBehind:
    """Fedus et al. 2021, arXiv:2101.03961, appendix B; Mesh TensorFlow's "ntlb".

    Every token has one expert, the first of its `top_k` best that has a free slot, with this
    expert's probability as the weight.

    Attributes:
      top_k: how many experts a token tries; at most their number.
      z_loss: the coefficient of the router z-loss.
    """

    top_k: int = 4
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        token_mask = context.full_importance()
        gates = mtf.softmax(logits, experts)
        attempts = mtf.Dimension("attempts", self.top_k)
        attempt_gates, attempt_experts = mtf.top_k(gates, experts, attempts)
        masks = mtf.one_hot(attempt_experts, experts)
        loss = load_balancing_loss(masks, gates, group, experts, token_mask)
        # {..., group} 1.0 for tokens that no expert has taken so far.
        unassigned = token_mask
        used = None
        choices = []
        candidates = (attempt_experts, attempt_gates, masks)
        for expert, gate, mask in zip(*(mtf.unstack(x, attempts) for x in candidates), strict=True):
            position, dispatched, selected, used = position_in_expert(
                apply_mask(mask, unassigned), group, experts, capacity, used
            )
            unassigned = (1.0 if unassigned is None else unassigned) - dispatched
            choices.append(Choice(expert, position, dispatched, selected, gate * dispatched))
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 1.0
