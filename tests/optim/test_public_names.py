"""Tests of public_names.py, which checks that the tables of cases are complete."""

from __future__ import annotations

from mtfrun import mtf, optim
from tests.optim.public_names import public_optimizers, public_schedules


class _Halved:
    """A schedule of its own."""

    def __call__(self, step: float | mtf.Tensor, /) -> float:
        return 0.5


class _Sign(optim.Sgd):
    """An optimizer of its own."""


def _halved(steps: int) -> optim.Schedule:
    return optim.Constant(0.5 / steps)


def test_a_new_optimizer_is_found() -> None:
    assert public_optimizers({**vars(optim), "Sign": _Sign}) - public_optimizers(vars(optim)) == {
        _Sign
    }


def test_a_new_schedule_is_found() -> None:
    namespace = {**vars(optim), "Halved": _Halved, "halved": _halved}
    assert public_schedules(namespace) - public_schedules(vars(optim)) == {_Halved, _halved}


def test_abstract_classes_and_other_names_need_no_case() -> None:
    needed = public_optimizers(vars(optim)) | public_schedules(vars(optim))
    exempt = {
        optim.Optimizer,
        optim.Schedule,
        optim.SlotOptimizer,
        optim.WeightAverage,
        optim.ParameterScale,
        optim.clip_by_global_norm,
    }
    assert needed.isdisjoint(exempt)
    assert {optim.Adam, optim.Sgd, optim.noam, optim.CosineDecay, optim.PowerDecay} <= needed
