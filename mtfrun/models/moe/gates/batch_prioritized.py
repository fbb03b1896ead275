"""Batch prioritized routing: switch gating that assigns slots in the order of the gates."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.gates.gate import GateContext, make_routing, masked
from mtfrun.models.moe.gates.losses import load_balancing_loss
from mtfrun.models.moe.gates.position_in_expert import position_in_expert, rank_tokens
from mtfrun.models.moe.gates.switch import Argmax, SwitchPolicy
from mtfrun.models.moe.routing import Choice, Routing


@dataclasses.dataclass(frozen=True)
class BatchPrioritized:
    """`Switch` with the tokens of a group in descending order of their gates.

    Riquelme et al. 2021, arXiv:2106.05974, section 4, with k = 1 and the group for the batch;
    Mesh TensorFlow's "switch_max". The routing of a token depends on the tokens after it in its
    group, which do not exist yet while decoding.

    Attributes:
      policy_training, policy_evaluation, z_loss: see `Switch`.
    """

    policy_training: SwitchPolicy = Argmax()
    policy_evaluation: SwitchPolicy = Argmax()
    z_loss: float = 0.0

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        policy = self.policy_training if context.training else self.policy_evaluation
        group, experts, capacity = context.dims
        token_mask = context.full_importance()
        gates = mtf.softmax(logits, experts)
        expert = policy(logits, context)
        one_hot = mtf.one_hot(expert, experts)
        mask = masked(one_hot, token_mask)
        gate = mtf.reduce_sum(gates * mask, reduced_dim=experts)

        rank = mtf.Dimension("rank", group.size)
        token_of_rank, rank_of_token = rank_tokens(gate, group, rank)
        mask_by_rank = mtf.gather_rows(
            mask, [(group, token_of_rank)], token_of_rank.shape + experts
        )
        by_rank = position_in_expert(mask_by_rank, rank, experts, capacity)
        position, dispatched, selected = (
            mtf.gather_rows(x, [(rank, rank_of_token)], rank_of_token.shape)
            for x in (by_rank.position, by_rank.dispatched, by_rank.selected)
        )
        choice = Choice(expert, position, dispatched, selected, gate * dispatched)
        loss = load_balancing_loss(one_hot, gates, group, experts, token_mask)
        return make_routing([choice], gates, loss, context, logits=logits, z_loss=self.z_loss)
