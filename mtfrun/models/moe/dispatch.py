"""Dispatch: tokens {..., group} move to the slots {..., experts, capacity} of experts and back.

By index, in a time linear in the tokens: a slot has at most one token, a token has a slot for every
choice, so that both directions and both gradients are gathers. Dimensions of a `shape` may be in
any order, rows last.
"""

from __future__ import annotations

from typing import Any

from mtfrun import mtf
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
