"""Experts without a capacity on one device: tokens sorted by expert, and grouped products."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.dispatch.gather import GatherDispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.routing import Routing

_DISPATCH = GatherDispatch()


def apply_to_sorted_rows(
    experts: Experts, x: mtf.Tensor, routing: Routing, expert: mtf.Dimension, call: Call
) -> mtf.Tensor:
    """Returns the weighted outputs {group, n} of the experts of every token.

    There is a row for every choice of every token; the rows of an expert are one piece, as long as
    it is. Gale et al. 2022, arXiv:2211.15841, section 4.

    Args:
      experts: with the dimension `expert`; n is their output dimension.
      x: the tokens {group, d_model}.
      routing: {group}, of a capacity that drops none.
      expert: the dimension of the experts.
      call: see `Call`. Noise of the experts depends on the number of the choice and of the token.
    """
    *_, d_model = x.shape.dims
    by_row = routing_to_sorted_rows(routing)
    one, rows = by_row.experts, by_row.capacity
    inputs = _DISPATCH.to_slots(x, by_row, mtf.Shape([one, rows, d_model]))
    sizes = mtf.reshape(mtf.to_int32(routing.counts), [expert])
    if call.training and call.key is not None:
        source = mtf.reshape(by_row.source_of_slot, [rows])
        call = dataclasses.replace(call, key=call.key.fold_in(source))
    outputs = experts.of_rows(mtf.reshape(inputs, [rows, d_model]), sizes, call)
    outputs = mtf.reshape(outputs, [one, rows, experts.output_dim])
    return _DISPATCH.to_tokens(outputs, by_row, mtf.Shape([by_row.group, experts.output_dim]))


def routing_to_sorted_rows(routing: Routing) -> Routing:
    """Returns the routing {group} as one to the rows {rows} of all experts, one after the other.

    To one expert, that is, whose slots are these rows: the tokens of expert 0 by their position
    there, then those of expert 1, and so on. Choices of no expert have no row, so that the last
    ones are empty.
    """
    one = mtf.Dimension("all_experts", 1)
    rows = mtf.Dimension("rows", len(routing.choices) * routing.group.size)
    first_row = mtf.to_int32(mtf.cumsum(routing.counts, routing.experts, exclusive=True))
    choices = [
        dataclasses.replace(
            choice,
            expert=mtf.zeros_like(choice.expert),
            position=mtf.gather(first_row, choice.expert, routing.experts) + choice.position,
        )
        for choice in routing.choices
    ]
    return dataclasses.replace(routing, choices=choices, experts=one, capacity=rows)
