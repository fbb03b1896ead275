"""The positions of tokens in their experts, and the tokens that capacity drops."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.models.moe.gates.gate import GateContext
from mtfrun.models.moe.routing import Choice

# Added to sums of gates before a division.
EPSILON = 1e-9


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


def dispatch_in_order(candidates: Iterable[Candidate], context: GateContext) -> list[Choice]:
    """Returns the choices: all first ones get slots before any second; dropped gates are 0."""
    used = None
    choices = []
    for expert, gate, mask in candidates:
        position, dispatched, selected, used = position_in_expert(mask, *context.dims, used)
        choices.append(Choice(expert, position, dispatched, selected, gate * dispatched))
    return choices


def normalise_gates(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Returns the choices with gates that add up to 1 for every token that has an expert."""
    choices = tuple(choices)
    scale = mtf.reciprocal(mtf.add_n([choice.gate for choice in choices]) + EPSILON)
    return tuple(dataclasses.replace(choice, gate=choice.gate * scale) for choice in choices)


def rank_tokens(
    scores: mtf.Tensor, group: mtf.Dimension, rank: mtf.Dimension
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns token_of_rank {..., rank} by descending scores, and its inverse {..., group}."""
    by_rank = mtf.Dimension("by_rank", group.size)
    _, token_of_rank = mtf.top_k(mtf.stop_gradient(scores), group, rank)
    _, inverse = mtf.top_k(mtf.negative(token_of_rank), rank, by_rank)
    return token_of_rank, mtf.rename_dimension(inverse, by_rank.name, group.name)
