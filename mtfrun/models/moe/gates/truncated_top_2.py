"""Top-2 gating whose second choices avoid experts that will be full."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.gates.gate import GateContext, make_routing, masked
from mtfrun.models.moe.gates.losses import load_balancing_loss
from mtfrun.models.moe.gates.position_in_expert import normalise_gates, position_in_expert
from mtfrun.models.moe.routing import Choice, Routing


@dataclasses.dataclass(frozen=True)
class TruncatedTop2:
    """`truncated_top_2` of softmax(logits).

    Attributes:
      with_balance_loss: adds the load balancing loss of first choices; the original has none.
    """

    with_balance_loss: bool = False

    def __call__(self, logits: mtf.Tensor, context: GateContext) -> Routing:
        group, experts, capacity = context.dims
        nonpadding = context.nonpadding()
        gates = mtf.softmax(logits, experts)
        choices = truncated_top_2(gates, group, experts, capacity, nonpadding)
        first_mask = masked(mtf.one_hot(choices[0].expert, experts), nonpadding)
        balance_loss = load_balancing_loss(first_mask, masked(gates, nonpadding), group, experts)
        routing = make_routing(choices, gates, balance_loss, context, logits=logits)
        if self.with_balance_loss:
            return routing
        return dataclasses.replace(routing, loss=mtf.zeros_like(balance_loss))


def truncated_top_2(
    gates: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    capacity: mtf.Dimension,
    token_mask: mtf.Tensor | None = None,
    *,
    allow_negative: bool = False,
) -> tuple[Choice, ...]:
    """Returns the two choices of every token, their gates normalised after capacity.

    As Mesh TensorFlow's `_truncated_top_2_gating_mtf`. The first choices use the slots of an expert
    at an even rate along the group. From the position on at which this uses them up, gates for that
    expert are lowered by 1, and so is a token's gate for the expert that its first choice is
    dispatched to. Hence the second gate is negative where every other expert will be full. Such a
    choice is not made: beside a first gate of the same size it would give weights without bound.

    Args:
      gates: probabilities, with group and experts among its dimensions.
      token_mask: {..., group} 0.0 for tokens without an expert; None for none.
      allow_negative: make negative choices as well, as the original did.
    """
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = masked(mtf.one_hot(expert_1, experts), token_mask)
    position_1, dispatched_1, selected_1, used = position_in_expert(
        mask_1, group, experts, capacity
    )
    use_rate = (used + 1.0) / float(group.size)
    exhausted_at = (float(capacity.size) - used) / use_rate
    index = mtf.range(gates.mesh, group, gates.dtype)
    exhausted = mtf.to_float(mtf.greater(index, exhausted_at, output_shape=gates.shape))
    second_gates = gates - exhausted - mask_1 * dispatched_1
    gate_2, expert_2 = mtf.top_1(second_gates, experts)
    mask_2 = masked(mtf.one_hot(expert_2, experts), token_mask)
    if not allow_negative:
        mask_2 = mask_2 * mtf.to_float(mtf.greater(gate_2, 0.0))
    position_2, dispatched_2, selected_2, _ = position_in_expert(
        mask_2, group, experts, capacity, used
    )
    return normalise_gates(
        [
            Choice(expert_1, position_1, dispatched_1, selected_1, gate_1 * dispatched_1),
            Choice(expert_2, position_2, dispatched_2, selected_2, gate_2 * dispatched_2),
        ]
    )
