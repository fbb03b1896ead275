"""Top-2 gating whose gates are normalised after capacity: Mesh TensorFlow's first version."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.gates.gate import GateContext, make_routing, masked
from mtfrun.models.moe.gates.position_in_expert import dispatch_in_order, normalise_gates
from mtfrun.models.moe.gates.second_expert_policy import Random, SecondExpertPolicy, Threshold
from mtfrun.models.moe.gates.top_2 import (
    Top2Candidates,
    top_2_balancing_loss,
    top_2_candidates,
)
from mtfrun.models.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class Top2V1:
    """Top-2 gating in which the only expert of a token has weight 1, whatever its gate was.

    As in Mesh TensorFlow's `transformer_moe_layer_v1`. A token of importance 1 may visit two
    experts, one of less its best.

    Attributes:
      second_policy_training, second_policy_evaluation: which tokens visit a second expert, by its
        unnormalised gate. That of evaluation must not draw random numbers.
      second_expert_loss, z_loss: those of `Top2`.
    """

    second_policy_training: SecondExpertPolicy = Random()
    second_policy_evaluation: SecondExpertPolicy = Threshold()
    second_expert_loss: bool = False
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        policy = self.second_policy_training if context.training else self.second_policy_evaluation
        gates = mtf.softmax(logits, context.experts)
        first_mask, second_mask = context.nonpadding(), context.full_importance()
        first, second, gates_without_first = top_2_candidates(gates, context.experts)
        first = first._replace(mask=masked(first.mask, first_mask))
        second = second._replace(mask=masked(second.mask, second_mask))
        loss = top_2_balancing_loss(
            Top2Candidates(first, second, masked(gates_without_first, second_mask)),
            masked(gates, first_mask),
            context,
            second_expert_loss=self.second_expert_loss,
        )
        second = second._replace(mask=second.mask * policy(second.gate, context))
        choices = normalise_gates(dispatch_in_order([first, second], context))
        return make_routing(choices, gates, loss, context, logits=logits, z_loss=self.z_loss)
