"""Learning-rate schedules against those of Mesh TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf, optim
from tests.layouts import ONE_DEVICE, assert_close
from tests.oracle.reference_cases import reference_cases

CASES = reference_cases("schedules")


def _warmup(total: int, steps_or_fraction: float = 10_000) -> optim.Schedule:
    steps = steps_or_fraction if steps_or_fraction > 1 else round(steps_or_fraction * total)
    return optim.LinearWarmup(int(steps))


def _decay(total: int, steps_or_fraction: float = 0.1) -> optim.Schedule:
    fraction = steps_or_fraction if steps_or_fraction <= 1 else steps_or_fraction / total
    return optim.LinearDecay(total, fraction, extrapolate=True)


def _noam(
    total: int,
    warmup_steps: int = 10_000,
    linear_decay_fraction: float = 0.1,
    multiplier: float = 1.0,
    offset: int = 0,
) -> optim.Schedule:
    rsqrt = optim.TruncatedRsqrt(warmup_steps)
    if not linear_decay_fraction:
        return optim.Product([multiplier, rsqrt])
    decay = _decay(total - offset, linear_decay_fraction)
    return optim.Shifted(optim.Product([multiplier, rsqrt, decay]), offset)


def _linear_decay_rate(total: int, initial_lr: float = 0.1, offset: int = 0) -> optim.Schedule:
    return optim.Product([initial_lr, optim.Shifted(_decay(total - offset, 1.0), offset)])


def _slanted(
    total: int,
    cut_fraction: float = 0.1,
    ratio: float = 32,
    max_learning_rate: float = 0.01,
    start_step: int = 0,
) -> optim.Schedule:
    triangle = optim.SlantedTriangular(
        total, cut_fraction, ratio, max_learning_rate, extrapolate=True
    )
    return optim.Shifted(triangle, start_step)


def _product(total: int, factors: list[Any], offset: int) -> optim.Schedule:
    named = {
        "truncated_rsqrt": optim.TruncatedRsqrt(),
        "linear_decay": _decay(total - offset),
        "linear_warmup": _warmup(total - offset),
    }
    return optim.Shifted(optim.Product([named.get(f, f) for f in factors]), offset)


# The same schedule here, by the original's name.
TRANSLATIONS: dict[str, Callable[..., optim.Schedule]] = {
    "constant": lambda total, value=1.0: optim.Constant(value),
    "constant_learning_rate": lambda total, learning_rate: optim.Constant(learning_rate),
    "linear_decay": _decay,
    "linear_warmup": _warmup,
    "truncated_rsqrt": lambda total, warmup_steps=10_000: optim.TruncatedRsqrt(warmup_steps),
    "learning_rate_schedule_noam": _noam,
    "linear_decay_learning_rate": _linear_decay_rate,
    "slanted_triangular": _slanted,
    "product": _product,
}


def _schedule(name: str) -> optim.Schedule:
    arguments = dict(CASES[name].hparams)
    return TRANSLATIONS[name.rpartition("_")[0]](arguments.pop("total_train_steps"), **arguments)


def test_there_are_23_cases() -> None:
    assert len(CASES) == 23


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_equals_the_original_in_python(name: str) -> None:
    schedule = _schedule(name)
    for step, value in zip(
        CASES[name].arrays["in/steps"], CASES[name].arrays["out/values"], strict=True
    ):
        rate = schedule(int(step))
        assert isinstance(rate, int | float)
        assert_close(rate, value)


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_equals_the_original_in_a_training_step(name: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    learning_rate = mtf.function(optim.Sgd(_schedule(name)).learning_rate)
    for step, value in zip(
        CASES[name].arrays["in/steps"], CASES[name].arrays["out/values"], strict=True
    ):
        rate = mtf.to_numpy(learning_rate(mtf.import_tf_tensor(mesh, np.int32(step), [])))
        assert rate.dtype == np.float32
        assert_close(rate, value)
