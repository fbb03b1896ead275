"""Capacity: the slots that an expert has for a group of tokens, and who gets them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, POSITIVE, check_fields
from mtfrun.models.moe.routing import Choice, GateContext

# Added to sums of gates before a division.
EPSILON = 1e-9


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The tokens that compete with each other, and the slots of an expert for them.

    An expert has group_size * factor / num_experts slots: Lepikhin et al. 2020, arXiv:2006.16668,
    section 2.2; Fedus et al. 2021, arXiv:2101.03961, equation 3.

    Attributes:
      training, evaluation: the capacity factors; 1 gives a slot to one choice of every token.
      second_level: the factor of the second level of two.
      min_expert_capacity: the smallest number of slots, on every level.
      group_size: the approximate number of tokens in a group, on every level; see `num_groups`.
    """

    training: float = 1.25
    evaluation: float = 2.0
    second_level: float = 1.0
    min_expert_capacity: int = 0
    group_size: int = 1024

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "training", "evaluation", "second_level", "group_size")
        check_fields(self, INDEX, "min_expert_capacity")

    def groups(self, mesh: mtf.Mesh, name: str, tokens: int) -> mtf.Dimension:
        """Returns the groups of `tokens`; a LayoutError if the mesh does not divide them."""
        groups = mtf.Dimension(name, num_groups(tokens, self.group_size))
        parts = mesh.num_splits(groups)
        if groups.size % parts:
            rule = f"{mesh.axis_of(groups)}:{parts} must divide {groups.size} group(s) of tokens"
            raise mtf.LayoutError(f"{rule}: set Capacity.group_size to {max(1, tokens // parts)}")
        return groups

    def slots(self, name: str, group_size: int, num_experts: int) -> int:
        """Returns the slots of an expert for a group, by the factor of this name, at least 1."""
        factor = getattr(self, name)
        slots = min(group_size, int(group_size * factor / num_experts))
        slots = max(slots, self.min_expert_capacity)
        if slots < 1:
            who = f"Capacity.{name}={factor} for groups of {group_size} tokens"
            raise InputError(f"{who} leaves no slot: set Capacity.min_expert_capacity=1")
        return slots


def num_groups(tokens: int, group_size: int) -> int:
    """Returns the number of equal groups of about `group_size` tokens.

    The least number from tokens // group_size on that divides the tokens. It does not depend on the
    mesh, and neither do the tokens that compete.

    Examples:
      >>> num_groups(4096, 1024), num_groups(18, 8), num_groups(5, 8)
      (4, 2, 1)
    """
    groups = max(1, tokens // group_size)
    while tokens % groups:
        groups += 1
    return groups


class Candidate(NamedTuple):
    """One expert {..., group} int32 for every token, before capacity.

    `gate` {..., group} float32: the weight of the expert's output if the token is dispatched.
    `mask` {..., group, experts} float32: 1.0 at the expert.
    """

    expert: mtf.Tensor
    gate: mtf.Tensor
    mask: mtf.Tensor


class Positions(NamedTuple):
    """The positions {..., group} of the tokens of one choice, at or above capacity where dropped.

    `dispatched`: 1.0 where the position is below the capacity. `selected`: 1.0 where the token
    selected an expert. `used` {..., experts}: the slots that are used after this choice.
    """

    position: mtf.Tensor
    dispatched: mtf.Tensor
    selected: mtf.Tensor
    used: mtf.Tensor


def position_in_expert(
    mask: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    capacity: mtf.Dimension,
    used: mtf.Tensor | None = None,
) -> Positions:
    """Returns the positions of tokens in their experts, in the order of the group.

    Lepikhin et al. 2020, arXiv:2006.16668, algorithm 1: the running count c_e. Computed in float32,
    which is exact up to groups of 16 million tokens and has a cumulative sum on every device.

    `mask` {..., group, experts}: 1.0 at the expert of a token, at most one. `used` {..., experts}:
    the slots that earlier choices use.
    """
    before = mtf.cumsum(mask, group, exclusive=True)
    if used is not None:
        before = before + used
    position = mtf.reduce_sum(before * mask, reduced_dim=experts)
    selected = mtf.reduce_sum(mask, reduced_dim=experts)
    dispatched = selected * mtf.to_float(mtf.less(position, float(capacity.size)))
    count = mtf.reduce_sum(mask, reduced_dim=group)
    used = mtf.minimum(count if used is None else used + count, float(capacity.size))
    return Positions(mtf.to_int32(position), dispatched, selected, used)


def dispatch(
    candidate: Candidate, context: GateContext, used: mtf.Tensor | None = None
) -> tuple[Choice, mtf.Tensor]:
    """Returns the choice, with gate 0 where capacity drops it, and the slots used after it."""
    expert, gate, mask = candidate
    position, dispatched, selected, used = position_in_expert(mask, *context.dims, used)
    return Choice(expert, position, dispatched, selected, gate * dispatched), used


def dispatch_in_order(candidates: Iterable[Candidate], context: GateContext) -> list[Choice]:
    """Returns the choices: first choices get slots before second choices."""
    used = None
    choices = []
    for candidate in candidates:
        choice, used = dispatch(candidate, context, used)
        choices.append(choice)
    return choices


def rank_tokens(
    scores: mtf.Tensor, group: mtf.Dimension, rank: mtf.Dimension
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns token_of_rank {..., rank} by descending scores, and its inverse {..., group}."""
    by_rank = mtf.Dimension("by_rank", group.size)
    _, token_of_rank = mtf.top_k(mtf.stop_gradient(scores), group, rank)
    _, inverse = mtf.top_k(mtf.negative(token_of_rank), rank, by_rank)
    return token_of_rank, mtf.rename_dimension(inverse, by_rank.name, group.name)
