"""Optimizers and schedules among the names that mtfrun.optim exports; see tests/case_tables.py."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from mtfrun import optim

# The members of the interface mtfrun.optim.Optimizer.
_MEMBERS = ("init", "named_slots", "learning_rate", "update")
_INTERFACES = (optim.Optimizer, optim.Schedule)


def is_optimizer(value: Any) -> bool:
    """Returns whether it is a class with the members of an optimizer, and not an abstract one."""
    return (
        inspect.isclass(value)
        and value not in _INTERFACES
        and all(hasattr(value, member) for member in _MEMBERS)
        and not inspect.isabstract(value)
    )


def is_schedule(value: Any) -> bool:
    """Returns whether it is a class that is called with a step, or a function of a schedule."""
    if inspect.isfunction(value):
        return typing.get_type_hints(value).get("return") is optim.Schedule
    if not inspect.isclass(value) or value in _INTERFACES or "__call__" not in dir(value):
        return False
    return list(inspect.signature(value.__call__).parameters)[1:] == ["step"]
