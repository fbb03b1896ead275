"""Rematerialisation of layers: inner values, and inputs, are computed in the backward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from types import MappingProxyType
from typing import Any

from mtfrun import mtf
from mtfrun.layers.collector import Collected, Collector
from mtfrun.layers.layer import CallT

ATTENTION, DENSE, PROJECTIONS = "attention", "dense", "projections"
"""Names for `mtf.keep`: means of values by weight, products with kernels of dense layers and of
attention layers."""

# The metadata of a `differentiated` field.
DIFFERENTIATED = MappingProxyType({"differentiated": True})


def differentiated_field(*, default: Any = dataclasses.MISSING) -> Any:
    """Returns a dataclass field of a `Call`, for a tensor or None, that `recompute` differentiates.

    A rematerialised function gives gradients to its arguments and to variables only: other tensors
    must be declared. A field that is a dataclass, or a tuple of them, may have such fields too.
    """
    return dataclasses.field(default=default, metadata=DIFFERENTIATED)


def recompute(
    function: Callable[[mtf.Tensor, CallT], mtf.Tensor],
    x: mtf.Tensor,
    call: CallT,
    names: Collection[str] | None = None,
) -> mtf.Tensor:
    """Returns function(x, call) and recomputes its inner values in the backward pass.

    Gradients reach x, variables and `differentiated_field`s of the call, metrics its collector.
    With `names`, these and values without a name are computed again, and values with other names
    are stored: "projections" and "attention" of attention layers, the products of "dense" layers,
    and the names in your layers' calls of `mtf.keep`.
    """
    y: mtf.Tensor
    y, collected = mtf.recompute_grad(
        collecting(function, call), [x, *differentiated_tensors(call)], names
    )
    if call.collector is not None:
        call.collector.add_all(collected)
    return y


def collecting(
    function: Callable[[mtf.Tensor, CallT], mtf.Tensor], call: CallT
) -> Callable[..., tuple[mtf.Tensor, Collected]]:
    """Returns the function of x and the call's differentiated tensors, and its collected values."""

    def run(x: mtf.Tensor, *fields: mtf.Tensor) -> tuple[mtf.Tensor, Collected]:
        remaining = iter(fields)
        collector = Collector()
        inner = map_differentiated(lambda _: next(remaining), call)
        return function(x, dataclasses.replace(inner, collector=collector)), collector.contents

    return run


def differentiated_tensors(record: Any) -> list[mtf.Tensor]:
    """Returns the tensors of a dataclass that are differentiated, in the order of the fields."""
    tensors: list[mtf.Tensor] = []

    def append(tensor: mtf.Tensor) -> mtf.Tensor:
        tensors.append(tensor)
        return tensor

    map_differentiated(append, record)
    return tensors


def map_differentiated(function: Callable[[mtf.Tensor], mtf.Tensor], record: Any) -> Any:
    """Returns a dataclass with function(tensor) for its differentiated tensors, in field order."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.metadata == DIFFERENTIATED and value is not None:
            changed[field.name] = function(value)
        elif dataclasses.is_dataclass(value):
            changed[field.name] = map_differentiated(function, value)
        elif isinstance(value, tuple) and all(map(dataclasses.is_dataclass, value)):
            changed[field.name] = tuple(map_differentiated(function, item) for item in value)
    return dataclasses.replace(record, **changed) if changed else record
