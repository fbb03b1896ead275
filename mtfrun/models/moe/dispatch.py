"""Dispatch: tokens {..., group} move to the slots {..., experts, capacity} of experts and back.

By index, in a time linear in the tokens: a slot has at most one token, a token has a slot for every
choice, so that both directions and both gradients are gathers. Dimensions of a `shape` may be in
any order, rows last.

With expert parallelism, two all-to-alls stand around the experts: `apply_experts`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mtfrun import mtf
from mtfrun.layers import Call
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.routing import Choice, Routing


def to_slots(x: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
    """Returns the rows of x {..., group, d} that the slots hold; 0 in empty slots."""

    def rows_of_slots(x: mtf.Tensor) -> mtf.Tensor:
        used = mtf.greater_equal(routing.token_of_slot, 0)
        rows = mtf.gather_rows(x, [(routing.group, routing.token_of_slot)], shape)
        return rows * mtf.cast(used, x.dtype)

    def gradient(inputs: Any, _outputs: Any, grads: list[mtf.Tensor]) -> list[mtf.Tensor]:
        rows = [
            _rows_of_tokens(grads[0], choice, routing, inputs[0].shape)
            * mtf.cast(choice.dispatched, grads[0].dtype)
            for choice in routing.choices
        ]
        return [mtf.add_n(rows)]

    return mtf.custom_gradient(rows_of_slots, gradient, [x])


def to_tokens(y: mtf.Tensor, routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
    """Returns the sums over a token's slots of gate * y {..., experts, capacity, d}."""
    d = shape - routing.batch - routing.group
    # The rows of the forward pass, which the gradient of the gates needs.
    rows: list[mtf.Tensor] = []

    def combine(y: mtf.Tensor, *gates: mtf.Tensor) -> mtf.Tensor:
        rows[:] = [_rows_of_tokens(y, choice, routing, shape) for choice in routing.choices]
        return mtf.add_n(
            [row * mtf.cast(gate, y.dtype) for row, gate in zip(rows, gates, strict=True)]
        )

    def gradients(inputs: Any, _outputs: Any, grads: list[mtf.Tensor]) -> list[mtf.Tensor]:
        y, *gates = inputs
        (grad,) = grads
        slot_gates = mtf.cast(_gates_of_slots(gates, routing, y.shape - d), grad.dtype)
        # Empty slots have gate 0, which masks whatever row they have.
        rows_of_slots = mtf.gather_rows(grad, [(routing.group, routing.token_of_slot)], y.shape)
        to_y = rows_of_slots * slot_gates
        to_gates = [
            mtf.to_float(mtf.reduce_sum(grad * row, output_shape=gate.shape))
            for row, gate in zip(rows, gates, strict=True)
        ]
        return [to_y, *to_gates]

    return mtf.custom_gradient(
        combine, gradients, [y, *(choice.gate for choice in routing.choices)]
    )


def gates_of_slots(routing: Routing, shape: mtf.Shape, like: mtf.Tensor) -> mtf.Tensor:
    """Returns every slot's weight, float32 rounded to the type of `like`; no gradient."""
    gates = [choice.gate for choice in routing.choices]
    weights = _gates_of_slots(gates, routing, mtf.Shape(shape))
    return mtf.stop_gradient(mtf.to_float(mtf.cast(weights, like.dtype)))


def _rows_of_tokens(
    y: mtf.Tensor, choice: Choice, routing: Routing, shape: mtf.Shape
) -> mtf.Tensor:
    """Returns a choice's rows of y {..., experts, capacity, d}; undefined for a dropped token."""
    position = mtf.minimum(choice.position, routing.capacity.size - 1)
    return mtf.gather_rows(
        y, [(routing.experts, choice.expert), (routing.capacity, position)], shape
    )


def _gates_of_slots(gates: list[mtf.Tensor], routing: Routing, shape: mtf.Shape) -> mtf.Tensor:
    source = routing.source_of_slot
    sources = mtf.Dimension("sources", len(gates) * routing.group.size)
    stacked = mtf.stack(gates, "choice", axis=routing.batch.ndims)
    flat = mtf.reshape(stacked, routing.batch + sources)
    gates_of_slots = mtf.gather_rows(flat, [(sources, source)], shape)
    return gates_of_slots * mtf.to_float(mtf.greater_equal(source, 0))


def apply_experts(
    experts: Experts,
    slots: mtf.Tensor,
    expert: mtf.Dimension,
    groups: mtf.Dimension,
    call: Call,
    noise: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns the outputs {expert_unsplit, ..., groups, ..., n} of the experts for their slots.

    The two reshapes before and after the experts move the split between groups and experts, which
    is an all-to-all where both are on the same mesh axis. Lepikhin et al. 2020, arXiv:2006.16668,
    algorithm 2.

    Args:
      slots: {expert_unsplit, ..., groups, ..., d_model}; the first dimension has no layout rule.
      groups: the dimension of the groups that share the mesh axis with the experts.
      noise: {expert_unsplit, ..., groups, ...} int32, the numbers that seed dropout in the experts;
        None for the slots' indices.
    """
    expert_unsplit, *dims, _ = slots.shape.dims
    axis = slots.mesh.axis_of(expert)
    moved_groups = groups
    if axis is not None and axis == slots.mesh.axis_of(groups):
        # Under a name without a layout rule: every device has the slots of all groups then.
        moved_groups = mtf.Dimension(f"{groups.name}_unsplit", groups.size)
    moved = [expert, *(moved_groups if dim == groups else dim for dim in slots.shape.dims[1:])]
    if noise is not None and call.key is not None:
        key = call.key.fold_in(mtf.reshape(noise, moved[:-1]))
        call = dataclasses.replace(call, key=key)
    outputs = experts(mtf.reshape(slots, moved), call)
    return mtf.reshape(outputs, [expert_unsplit, *dims, experts.output_dim])
