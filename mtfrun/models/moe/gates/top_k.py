"""Top-k gating: the k experts with the largest probabilities, all of them."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.checks import Range, check_fields
from mtfrun.models.moe.gates.gate import GateContext, make_routing, masked
from mtfrun.models.moe.gates.losses import load_balancing_loss
from mtfrun.models.moe.gates.position_in_expert import Candidate, dispatch_in_order
from mtfrun.models.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class TopK:
    """Softmax over all experts, then the k largest: Mixtral, Jiang et al. 2024, arXiv:2401.04088.

    Unlike `Top2` and `TopN` it has no policy: a token has k experts. With k = 1 and without
    normalisation it is `Switch`. The load balancing loss counts all k choices: experts / k times
    the sum of f_e * P_e, where f_e is the mean number of choices of expert e by a token and P_e its
    mean probability, so that it is 1 where the load is uniform.

    Attributes:
      num_experts: k, at most the number of experts.
      normalise: whether the weights are the probabilities divided by the sum of the k largest, as
        in Mixtral, or the probabilities themselves.
      z_loss: the coefficient of the router z-loss.
    """

    num_experts: int = 2
    normalise: bool = True
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, nonpadding = context.group, context.experts, context.nonpadding()
        check_fields(self, Range(1, experts.size, whole=True), "num_experts")
        ranks = mtf.Dimension("ranks", self.num_experts)
        probabilities = mtf.softmax(logits, experts)
        gates, chosen = mtf.top_k(probabilities, experts, ranks)
        masks = mtf.one_hot(chosen, experts)
        loss = load_balancing_loss(masks, probabilities, group, experts, nonpadding)
        if self.normalise:
            gates = gates / mtf.reduce_sum(gates, reduced_dim=ranks)
        candidates = [
            Candidate(expert, gate, masked(mask, nonpadding))
            for expert, gate, mask in zip(
                *(mtf.unstack(x, ranks) for x in (chosen, gates, masks)), strict=True
            )
        ]
        choices = dispatch_in_order(candidates, context)
        return make_routing(
            choices, probabilities, loss, context, logits=logits, z_loss=self.z_loss
        )
