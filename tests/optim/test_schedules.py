"""What the reference values do not cover: cosine, ends of training, bad arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtfrun import mtf, optim
from tests.layouts import LAYOUTS, ONE_DEVICE, assert_close

SCHEDULES = {
    "constant": optim.Constant(0.3),
    "warmup": optim.LinearWarmup(10),
    "rsqrt": optim.TruncatedRsqrt(10),
    "linear": optim.LinearDecay(100, 0.5),
    "cosine": optim.CosineDecay(100, minimum=0.1),
    "triangle": optim.SlantedTriangular(100),
    "product": optim.Product([2.0, optim.LinearWarmup(10), optim.CosineDecay(100), 0.5]),
    "only_numbers": optim.Product([2.0, 0.25]),
    "shifted": optim.Shifted(optim.LinearWarmup(10), 5),
    "noam": optim.noam(100, warmup_steps=10),
    "power_decay": optim.PowerDecay(),
    "adam_decay": optim.AdamDecay(0.99),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_the_same_in_python_and_in_a_step(name: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    in_step = mtf.function(optim.Sgd(SCHEDULES[name]).learning_rate)
    for step in (0, 1, 5, 10, 11, 50, 99, 100, 150):
        rate = in_step(mtf.import_tf_tensor(mesh, np.int32(step), []))
        assert_close(mtf.to_numpy(rate), SCHEDULES[name](step))


@pytest.mark.parametrize("mesh_shape", LAYOUTS)
def test_a_schedule_gives_a_scalar_under_every_layout(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape)
    schedule = SCHEDULES["product"]
    rate = mtf.function(schedule)(mtf.import_tf_tensor(mesh, np.int32(7), []))
    assert rate.shape == mtf.Shape([])
    assert_close(mtf.to_numpy(rate), schedule(7))


def test_cosine_decay_is_half_a_wave() -> None:
    schedule = optim.CosineDecay(200, minimum=0.2)
    values = [schedule(step) for step in (0, 50, 100, 150, 200, 300)]
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * x)) / 2 for x in (0, 0.25, 0.5, 0.75, 1, 1)]
    assert_close(values, expected)


@pytest.mark.parametrize(
    "schedule",
    [optim.LinearDecay(100), optim.CosineDecay(100), optim.noam(100, warmup_steps=10)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_decay_stops_at_zero(schedule: optim.Schedule) -> None:
    assert schedule(99) > 0
    assert schedule(100) == 0
    assert schedule(1000) == 0


def test_a_slanted_triangle_stops_at_its_lowest_rate() -> None:
    schedule = optim.SlantedTriangular(100, ratio=10, maximum=0.5)
    assert_close([schedule(step) for step in (0, 100, 1000)], [0.05, 0.05, 0.05])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optim.LinearWarmup(0), r"LinearWarmup.warmup_steps is 0; it must be positive"),
        (lambda: optim.TruncatedRsqrt(-1), r"TruncatedRsqrt.warmup_steps is -1"),
        (lambda: optim.LinearDecay(0), r"LinearDecay.total_steps is 0"),
        (lambda: optim.LinearDecay(10, 1.5), r"LinearDecay.fraction is 1.5; .* at most 1"),
        (lambda: optim.CosineDecay(0), r"CosineDecay.total_steps is 0"),
        (lambda: optim.SlantedTriangular(5), r"cut_fraction is 0.1 of 5 steps"),
        (lambda: optim.SlantedTriangular(100, 1.0), r"cut_fraction is 1.0"),
    ],
)
def test_a_schedule_rejects_impossible_arguments(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
