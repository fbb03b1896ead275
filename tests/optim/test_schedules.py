"""Schedules against their formulas, in Python and in a compiled step, and their errors."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.optim.schedules import one_minus_power
from tests.case_tables import exported, require_a_case_of_each
from tests.layouts import ONE_DEVICE, assert_close

STEPS = (0, 1, 5, 10, 11, 50, 99, 100, 150)


@dataclasses.dataclass(frozen=True)
class Case:
    """A schedule, and the formula of its value at step t."""

    make: Callable[..., optim.Schedule]
    arguments: Sequence[object]
    formula: Callable[[int], float]

    def schedule(self) -> optim.Schedule:
        return self.make(*self.arguments)


def _cosine(t: int) -> float:
    return (1 + math.cos(math.pi * min(t, 100) / 100)) / 2


def _wsd(t: int) -> float:
    """Returns a warm-up of 10 steps, 1, and a decay from step 50 to 0.2 at step 100."""
    return min(1.0, t / 10) * (1 - 0.8 * math.sqrt(min(1.0, max(0.0, (t - 50) / 50))))


def _triangle(t: int) -> float:
    """Howard & Ruder 2018, equation 3, for 100 steps, of which 10 rise."""
    p = t / 10 if t < 10 else 1 - (t - 10) / (10 * (1 / 0.1 - 1))
    return 0.01 * (1 + max(p, 0.0) * (32 - 1)) / 32


CASES = {
    "constant": Case(optim.Constant, [0.3], lambda _: 0.3),
    "warmup": Case(optim.LinearWarmup, [10], lambda t: min(1.0, t / 10)),
    "rsqrt": Case(optim.TruncatedRsqrt, [10], lambda t: 1 / math.sqrt(max(t, 10))),
    "linear": Case(optim.LinearDecay, [100, 0.5], lambda t: max(0.0, min(1.0, (100 - t) / 50))),
    "linear_extrapolated": Case(
        optim.LinearDecay, [100, 0.5, True], lambda t: min(1.0, (100 - t) / 50)
    ),
    "cosine": Case(optim.CosineDecay, [100, 0.1], lambda t: 0.1 + 0.9 * _cosine(t)),
    "triangle": Case(zoo.SlantedTriangular, [100], _triangle),
    "wsd": Case(optim.WarmupStableDecay, [100, 10, 0.5, "sqrt", 0.2], _wsd),
    "wsd_linear": Case(
        optim.WarmupStableDecay,
        [100, 10, 0.5, "linear"],
        lambda t: min(1.0, t / 10, max(0.0, (100 - t) / 50)),
    ),
    "piecewise": Case(
        optim.Piecewise,
        [[10, 50], [0.5, optim.CosineDecay(100), 0.1]],
        lambda t: 0.5 if t < 10 else _cosine(t - 10) if t < 50 else 0.1,
    ),
    "piecewise_numbers": Case(
        optim.Piecewise, [[10, 50], [1.0, 0.1, 0.01]], lambda t: 0.1 ** sum([t >= 10, t >= 50])
    ),
    "piecewise_linear": Case(
        optim.PiecewiseLinear,
        [{5: 1.0, 10: 0.2, 100: 0.0}],
        lambda t: float(np.interp(t, [5, 10, 100], [1.0, 0.2, 0.0])),
    ),
    "one_value": Case(optim.PiecewiseLinear, [{5: 0.3}], lambda _: 0.3),
    "cyclic": Case(
        optim.Cyclic,
        [optim.CosineDecay(100), 11, 0.5],
        lambda t: 0.5 ** (t // 11) * _cosine(t % 11),
    ),
    "product": Case(
        optim.Product,
        [[2.0, optim.LinearWarmup(10), optim.CosineDecay(100), 0.5]],
        lambda t: min(1.0, t / 10) * _cosine(t),
    ),
    "only_numbers": Case(optim.Product, [[2.0, 0.25]], lambda _: 0.5),
    "shifted": Case(optim.Shifted, [optim.LinearWarmup(10), 5], lambda t: min(1.0, (t - 5) / 10)),
    "noam": Case(
        optim.noam, [100, 10], lambda t: max(0.0, min(1.0, (100 - t) / 10)) / math.sqrt(max(t, 10))
    ),
    "noam_without_decay": Case(
        optim.noam, [100, 10, 0.0, 3.0], lambda t: 3 / math.sqrt(max(t, 10))
    ),
    "power_decay": Case(optim.PowerDecay, [], lambda t: 1 - (t + 1) ** -0.8),
    "adam_decay": Case(
        optim.AdamDecay, [0.99], lambda t: 0.99 * (1 - 0.99**t) / (1 - 0.99 ** (t + 1))
    ),
}


def _is_schedule(value: Any) -> bool:
    if inspect.isfunction(value):
        return typing.get_type_hints(value).get("return") is optim.Schedule
    if not inspect.isclass(value) or value is optim.Schedule or "__call__" not in dir(value):
        return False
    return list(inspect.signature(value.__call__).parameters)[1:] == ["step"]


def test_every_public_schedule_has_a_case() -> None:
    with_a_case = {case.make.__name__ for case in CASES.values()}
    require_a_case_of_each(exported(optim, _is_schedule), with_a_case, [], "CASES, with a formula")


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_equals_its_formula(name: str) -> None:
    schedule = CASES[name].schedule()
    expected = [CASES[name].formula(step) for step in STEPS]
    assert_close([_number(schedule(step)) for step in STEPS], expected)


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_is_the_same_in_python_and_in_a_step(name: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    schedule = CASES[name].schedule()
    in_step = mtf.function(optim.Sgd(schedule).learning_rate)
    for step in STEPS:
        rate = in_step(mtf.import_tf_tensor(mesh, np.int32(step), []))
        assert_close(mtf.to_numpy(rate), _number(schedule(step)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optim.LinearWarmup(0), "LinearWarmup.warmup_steps is 0: it must be more than 0"),
        (lambda: optim.LinearWarmup(0.1), "warmup_steps=0.1 is a share of total_steps: set"),
        (lambda: optim.TruncatedRsqrt(-1), r"TruncatedRsqrt.warmup_steps is -1"),
        (lambda: optim.LinearDecay(0), r"LinearDecay.total_steps is 0"),
        (lambda: optim.LinearDecay(10, 1.5), r"LinearDecay.fraction is 1.5: .* at most 1"),
        (lambda: optim.CosineDecay(0), r"CosineDecay.total_steps is 0"),
        (lambda: zoo.SlantedTriangular(5), r"cut_fraction is 0.1 of 5 steps"),
        (lambda: zoo.SlantedTriangular(100, 1.0), r"cut_fraction is 1.0"),
        (lambda: optim.WarmupStableDecay(9, 1, decay="x"), r"decay is 'x': it must be 'sqrt' or"),
        (lambda: optim.Piecewise([5], [0.1]), "Piecewise has 1 pieces and 1 boundaries: it needs"),
        (lambda: optim.Piecewise([5, 5], [1.0] * 3), r"has the steps \[5, 5\]: they must ascend"),
        (lambda: optim.PiecewiseLinear({}), r"PiecewiseLinear.points has the steps \[\]"),
        (lambda: optim.Cyclic(optim.CosineDecay(9), 0), r"Cyclic.period is 0"),
    ],
)
def test_a_schedule_rejects_impossible_arguments(
    make: Callable[[], optim.Schedule], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _number(value: float | mtf.Tensor) -> float:
    """Returns a schedule's value in Python, which must be a float."""
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("base", [0.5, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("exponent", [1, 2, 1000, 1_000_000])
def test_one_minus_power_does_not_cancel(base: float, exponent: int) -> None:
    exact = -np.expm1(exponent * np.log(base))
    tensor = mtf.import_tf_tensor(mtf.Mesh(ONE_DEVICE), np.float32(exponent), [])
    assert_close(np.array(one_minus_power(base, exponent)), exact, 1e-12)
    assert_close(mtf.to_numpy(one_minus_power(base, tensor)), exact, 1e-6)
