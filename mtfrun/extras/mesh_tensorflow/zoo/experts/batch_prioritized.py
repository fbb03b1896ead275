"""Batch prioritized routing: switch gating that assigns slots in the order of the gates."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.capacity import Candidate, position_in_expert, rank_tokens
from mtfrun.models.moe.gate import GateContext
from mtfrun.models.moe.gates.switch import Switch
from mtfrun.models.moe.routing import Choice


@dataclasses.dataclass(frozen=True)
class BatchPrioritized(Switch):
    """`Switch` with the tokens of a group in descending order of their gates.

    Riquelme et al. 2021, arXiv:2106.05974, section 4, with k = 1 and the group for the batch;
    Mesh TensorFlow's "switch_max". The routing of a token depends on the tokens after it in its
    group, which do not exist yet while decoding.

    Attributes:
      policy_training, policy_evaluation, z_loss: see `Switch`.
    """

    def _assign_slots(self, candidate: Candidate, context: GateContext) -> list[Choice]:
        group, experts, capacity = context.dims
        expert, gate, mask = candidate
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
        return [Choice(expert, position, dispatched, selected, gate * dispatched)]
