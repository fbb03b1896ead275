"""Tests of public_names.py, which finds what the tables of cases must contain."""

from __future__ import annotations

from mtfrun import mtf, optim
from mtfrun.configuration.published import exported_names
from tests.case_tables import exported
from tests.optim.public_names import is_optimizer, is_schedule


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
