"""Progress, curves and reports of a training."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models.model import Loss
from mtfrun.models.resnet import ImageClassifier
from mtfrun.training import CheckpointOptions, TrainOptions
from mtfrun.training.curves import Curves, HostMetric
from mtfrun.training.log import Progress
from tests.layouts import ONE_DEVICE
from tests.training.toy_model import Bigram
from tests.training.toy_run import Evaluating, curve, quick_train, toy_train


def _lines(*points: tuple[int, Mapping[str, float]], **settings: Any) -> list[str]:
    """Returns the lines for values at their steps."""
    stream = io.StringIO()
    progress = Progress(0, 2000, stream, **settings)
    for step, values in points:
        progress.line(step, {"loss": 2.31, "learning_rate": 1e-3, **values})
    progress.close()
    return stream.getvalue().splitlines()


def test_a_line_says_step_loss_rate_speed_and_time_left() -> None:
    rates = {"perf/steps_per_sec": 10.0, "perf/tokens_per_sec": 41_200.0}
    first, second = _lines((300, rates), (2000 - 36_010, rates))
    assert first == "step 300/2000  loss 2.3100  lr 1.00e-03  41.2k tok/s  eta 2:50"
    assert second.endswith("eta 1:00:01")


def test_a_line_says_that_the_devices_wait_for_data_if_they_do() -> None:
    waits = (0.0, 0.0099, 0.01, 0.5)
    lines = _lines(*((10, {"perf/data_wait_fraction": fraction}) for fraction in waits))
    waiting = [line.partition("1.00e-03")[2] for line in lines]
    assert waiting == ["", "", "  data wait 1%", "  data wait 50%"]


def test_a_line_about_images_says_accuracy_and_images_per_second() -> None:
    values = {"accuracy": 0.9, "top_5_accuracy": 1.0}
    rates = {"perf/steps_per_sec": 20.0, "perf/images_per_sec": 1280.0}
    assert _lines((1200, {**values, **rates}), reporting=ImageClassifier.reporting) == [
        "step 1200/2000  loss 2.3100  accuracy 0.9000  lr 1.00e-03  1.3k images/s  eta 0:40"
    ]


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


@pytest.mark.slow
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


class _Reporting(Bigram):
    """Prints and summarises in a function that the backward pass computes again."""

    def loss(self, *args: object, **kwargs: object) -> Loss:
        loss = super().loss(*args, **kwargs)  # type: ignore[arg-type]

        def reported(total: mtf.Tensor) -> mtf.Tensor:
            mtf.scalar_summary("loss", total / loss.weight)
            mtf.scalar_summary("gate/one", mtf.ones(total.mesh, []))
            return mtf.Print(total, [loss.weight], "weight")

        return loss._replace(total=mtf.recompute_grad(reported, [loss.total]))


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_every_microbatch_is_printed_with_its_step_and_curves_are_means(
    mesh_shape: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions(
        4,
        iterations_per_loop=2,
        log_every_steps=2,
        microbatches=2,
        checkpoints=CheckpointOptions(every_steps=None),
    )
    toy_train(str(tmp_path), options, mesh_shape=mesh_shape, model=_Reporting)
    lines = [line for line in capsys.readouterr().err.splitlines() if "weight" in line]
    expected = "weight [Tensor('', float32)][24.0]"
    assert lines == [f"step {step}: {expected}" for step in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert curve(str(tmp_path), "gate/one") == {2: 1.0, 4: 1.0}
    losses = curve(str(tmp_path))
    assert curve(str(tmp_path), "summary/loss") == pytest.approx(losses)
