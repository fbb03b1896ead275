"""Tests of mtfrun.training.curves: an interruption of the run changes no point."""

from __future__ import annotations

import json
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun.training import CheckpointOptions, TrainOptions
from mtfrun.training.curves import Curves, HostMetric
from tests.training.toy_run import Evaluating, curve, quick_train


def _options(train_steps: int) -> TrainOptions:
    return TrainOptions(
        train_steps=train_steps,
        iterations_per_loop=5,
        log_every_steps=10,
        checkpoints=CheckpointOptions(every_steps=15),
    )


def _interrupt(step: int, _: object, check: Callable[[], None]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    check()
    raise AssertionError("goes on after a signal")


@pytest.mark.parametrize("tag", ["loss", "loss/perplexity", "learning_rate", "norm/gradient"])
def test_points_do_not_depend_on_an_interruption_between_them(
    runs: tuple[str, str], tag: str
) -> None:
    uninterrupted, interrupted = runs
    assert list(curve(uninterrupted, tag)) == [10, 20, 30]
    assert curve(interrupted, tag) == curve(uninterrupted, tag)


@pytest.mark.slow
def test_points_do_not_depend_on_an_end_between_them(
    runs: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    uninterrupted, _ = runs
    extended = str(tmp_path)
    quick_train(extended, _options(15))
    quick_train(extended, _options(30))
    points = curve(extended)
    assert list(points) == [10, 15, 20, 30]  # the end of the first part has its own point
    assert {step: points[step] for step in (10, 20, 30)} == curve(uninterrupted)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run of 30 steps, and one that a signal interrupts after 15."""
    folder: pathlib.Path = tmp_path_factory.mktemp("runs")
    uninterrupted, interrupted = (str(folder / name) for name in "ab")
    quick_train(uninterrupted, _options(30))
    _, stopped = quick_train(interrupted, _options(30), actions=[Evaluating(_interrupt, 15)])
    assert (stopped.step, stopped.signal) == (15, signal.SIGTERM)
    quick_train(interrupted, _options(30))
    return uninterrupted, interrupted


def _metric(total: object, weight: object) -> HostMetric:
    return HostMetric(np.array(total, np.float32), np.array(weight, np.float32))


def test_sums_survive_json_to_the_bit_even_if_not_finite() -> None:
    metrics = {
        "loss": _metric([0.1, 0.7], [3.0, 1.0]),
        "load": _metric([[0.1, 1e-30], [np.inf, 0.3]], [1.0, 1.0]),
    }
    first = Curves(10, 100)
    assert list(first.add(10, 2, metrics, {}, np.zeros(2))) == []
    text = json.dumps(first.sums(), allow_nan=False)
    restored = Curves(10, 100)
    restored.restore(json.loads(text))
    points = [list(curves.add(12, 2, metrics, {}, np.zeros(2))) for curves in (first, restored)]
    sums = [curves.sums() for curves in (first, restored)]
    assert points == [[], []] and sums[0] == sums[1] and json.dumps(sums[0]) != text


@pytest.mark.parametrize("sums", [None, [], {"loss": 1}, {"loss": {"total": [1], "weight": "x"}}])
def test_damaged_sums_are_an_error_of_one_line(sums: Any) -> None:
    with pytest.raises(ValueError, match="sums of curves are not as they were saved"):
        Curves(10, 100).restore(sums)
