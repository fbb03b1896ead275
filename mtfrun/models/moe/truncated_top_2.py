"""Top-2 gating that looks ahead: second choices avoid experts that will be full."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked
from mtfrun.models.moe.balance import balance_loss
from mtfrun.models.moe.queueing import normalised, queue
from mtfrun.models.moe.routing import Choice, Routing, make_routing


def truncated_top_2(
    gates: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    capacity: mtf.Dimension,
    present: mtf.Tensor | None = None,
    *,
    allow_negative: bool = False,
) -> tuple[Choice, ...]:
    """Returns the two choices of every token, their weights normalised after capacity.

    An expert whose slots will be used up, at the rate of its first choices, before a token's
    position loses 1 of its gate there, and the expert that the token has already loses 1 as well.
    So the second gate is negative where every other expert will be full. Such a choice is not made:
    beside a first gate of the same size it would give weights without bound.

    Args:
      gates: probabilities, with group and experts among its dimensions.
      group, experts, capacity: the dimensions.
      present: {..., group} 0.0 for tokens that visit no expert; None for none.
      allow_negative: make negative choices as well, as the original did.
    """
    gate_1, expert_1 = mtf.top_1(gates, experts)
    mask_1 = masked(mtf.one_hot(expert_1, experts), present)
    position_1, kept_1, wanted_1, taken = queue(mask_1, group, experts, capacity)
    use_rate = (taken + 1.0) / float(group.size)
    exhausted_at = (float(capacity.size) - taken) / use_rate
    place = mtf.range(gates.mesh, group, gates.dtype)
    exhausted = mtf.to_float(mtf.greater(place, exhausted_at, output_shape=gates.shape))
    second = gates - exhausted - mask_1 * kept_1
    gate_2, expert_2 = mtf.top_1(second, experts)
    mask_2 = masked(mtf.one_hot(expert_2, experts), present)
    if not allow_negative:
        mask_2 = mask_2 * mtf.to_float(mtf.greater(gate_2, 0.0))
    position_2, kept_2, wanted_2, _ = queue(mask_2, group, experts, capacity, taken)
    return normalised(
        [
            Choice(expert_1, position_1, kept_1, wanted_1, gate_1 * kept_1),
            Choice(expert_2, position_2, kept_2, wanted_2, gate_2 * kept_2),
        ]
    )


@dataclasses.dataclass(frozen=True)
class TruncatedTop2:
    """`truncated_top_2` of softmax(logits).

    Args:
      with_balance_loss: the original had no loss of its own; True adds that of first choices.
    """

    with_balance_loss: bool = False

    def __call__(self, logits: mtf.Tensor, assignment: Assignment) -> Routing:
        """Returns the routing for logits {..., group, experts}, float32."""
        group, experts, capacity = assignment.dims
        present = assignment.present()
        gates = mtf.softmax(logits, experts)
        choices = truncated_top_2(gates, group, experts, capacity, present)
        first = masked(mtf.one_hot(choices[0].expert, experts), present)
        balance = balance_loss(first, masked(gates, present), assignment)
        routing = make_routing(choices, gates, balance, assignment, logits=logits)
        if self.with_balance_loss:
            return routing
        return dataclasses.replace(routing, loss=mtf.zeros_like(balance))
