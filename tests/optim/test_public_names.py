"""Tests of test_public_names.py, which finds what the tables of cases must contain."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from mtfrun import mtf, optim
from mtfrun.configuration.published import exported_names
from tests.case_tables import exported

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


class _Halved:
    """A schedule of its own."""

    def __call__(self, step: float | mtf.Tensor, /) -> float:
        return 0.5


class _Sign(optim.Sgd):
    """An optimizer of its own."""


def _halved(steps: int) -> optim.Schedule:
    return optim.Constant(0.5 / steps)


def test_a_new_optimizer_is_found() -> None:
    assert is_optimizer(_Sign)
    assert not is_optimizer(_Halved) and not is_optimizer(_halved)


def test_a_new_schedule_is_found() -> None:
    assert is_schedule(_Halved) and is_schedule(_halved)
    assert not is_schedule(_Sign)


def test_abstract_classes_and_other_names_need_no_case() -> None:
    needed = exported(optim, is_optimizer).keys() | exported(optim, is_schedule).keys()
    exempt = {
        "Optimizer",
        "Schedule",
        "SlotOptimizer",
        "WeightAverage",
        "ParameterScale",
        "clip_by_global_norm",
    }
    assert exempt <= set(exported_names(optim))
    assert needed.isdisjoint(exempt)
    assert {"Adam", "Sgd", "noam", "CosineDecay", "PowerDecay"} <= needed
