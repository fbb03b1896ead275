"""Places in the queues of experts, first come first served."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment
from mtfrun.models.moe.routing import Choice

# Added to sums of gates before a division.
EPSILON = 1e-9


class Candidate(NamedTuple):
    """One expert for every token, before it queues there.

    Args:
      expert: {..., group} int32.
      gate: {..., group} float32, the weight of the expert's output if the token gets there.
      mask: {..., group, experts} float32, 1.0 at the expert of a token that wants to go there.
    """

    expert: mtf.Tensor
    gate: mtf.Tensor
    mask: mtf.Tensor


def queue(
    mask: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    capacity: mtf.Dimension,
    taken: mtf.Tensor | None = None,
) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor, mtf.Tensor]:
    """Returns the places of tokens in their experts' queues, first come first served.

    Computed in float32, which is exact up to groups of 16 million tokens and has a cumulative sum
    on every device.

    Args:
      mask: {..., group, experts} 1.0 at the expert that a token wants, at most one.
      group, experts, capacity: the dimensions.
      taken: {..., experts} slots that are filled already.

    Returns:
      position {..., group} int32; kept {..., group} float32; wanted {..., group} float32; and the
      slots {..., experts} that are filled after this.
    """
    before = mtf.cumsum(mask, group, exclusive=True)
    if taken is not None:
        before = before + taken
    position = mtf.reduce_sum(before * mask, reduced_dim=experts)
    wanted = mtf.reduce_sum(mask, reduced_dim=experts)
    kept = wanted * mtf.to_float(mtf.less(position, float(capacity.size)))
    now = mtf.reduce_sum(mask, reduced_dim=group)
    filled = mtf.minimum(now if taken is None else taken + now, float(capacity.size))
    return mtf.to_int32(position), kept, wanted, filled


def queue_in_order(candidates: Iterable[Candidate], assignment: Assignment) -> list[Choice]:
    """Returns the choices of tokens that all queue at their first expert, then at the next.

    The gate of a token that finds no room becomes 0.
    """
    taken = None
    choices = []
    for expert, gate, mask in candidates:
        position, kept, wanted, taken = queue(mask, *assignment.dims, taken)
        choices.append(Choice(expert, position, kept, wanted, gate * kept))
    return choices


def normalised(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Returns the choices with gates that add up to 1 for every token that visits an expert."""
    choices = tuple(choices)
    scale = mtf.reciprocal(mtf.add_n([choice.gate for choice in choices]) + EPSILON)
    return tuple(dataclasses.replace(choice, gate=choice.gate * scale) for choice in choices)
