"""Optimizers and schedules among the names that a module exports."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun import optim

# The members of the interface mtfrun.optim.Optimizer.
_MEMBERS = ("init", "named_slots", "learning_rate", "update")


def public_optimizers(namespace: Mapping[str, object]) -> set[type]:
    """Returns the public classes with the members of an optimizer, without abstract ones."""
    classes = {value for name, value in namespace.items() if _is_public_class(value, name)}
    return {
        cls
        for cls in classes
        if all(hasattr(cls, member) for member in _MEMBERS) and not inspect.isabstract(cls)
    }


def public_schedules(namespace: Mapping[str, object]) -> set[Callable[..., Any]]:
    """Returns the public classes that are called with a step, and functions that make schedules."""
    classes = {
        value
        for name, value in namespace.items()
        if _is_public_class(value, name) and "__call__" in dir(value) and _takes_a_step(value)
    }
    functions = {
        value
        for name, value in namespace.items()
        if not name.startswith("_")
        and inspect.isfunction(value)
        and typing.get_type_hints(value).get("return") is optim.Schedule
    }
    return classes | functions


def _is_public_class(value: object, name: str) -> typing.TypeGuard[Any]:
    """Returns whether it is a class, but none of the two interfaces."""
    interfaces = (optim.Optimizer, optim.Schedule)
    return not name.startswith("_") and inspect.isclass(value) and value not in interfaces


def _takes_a_step(cls: Any) -> bool:
    parameters = list(inspect.signature(cls.__call__).parameters)
    return parameters[1:] == ["step"]
