"""Tests of mtfrun.training.progress."""

from __future__ import annotations

import io

from mtfrun.models.resnet import ImageClassifier
from mtfrun.training.progress import Progress


def test_a_line_says_step_loss_rate_speed_and_time_left() -> None:
    stream = io.StringIO()
    progress = Progress(0, 2000, stream)
    values = {
        "loss": 2.31,
        "learning_rate": 1e-3,
        "perf/steps_per_sec": 10.0,
        "perf/tokens_per_sec": 41_200.0,
    }
    progress.line(300, values)
    progress.line(2000 - 36_010, values)
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first == "step 300/2000  loss 2.3100  lr 1.00e-03  41.2k tok/s  eta 2:50"
    assert second.endswith("eta 1:00:01")


def test_a_line_says_that_the_devices_wait_for_data_if_they_do() -> None:
    stream = io.StringIO()
    progress = Progress(0, 2000, stream)
    for fraction in (0.0, 0.0099, 0.01, 0.5):
        values = {"loss": 2.0, "learning_rate": 1e-3, "perf/data_wait_fraction": fraction}
        progress.line(10, values)
    progress.close()
    assert [line.partition("1.00e-03")[2] for line in stream.getvalue().splitlines()] == [
        *("", ""),
        "  data wait 1%",
        "  data wait 50%",
    ]


def test_a_line_about_images_says_accuracy_and_images_per_second() -> None:
    stream = io.StringIO()
    progress = Progress(0, 900, stream, reporting=ImageClassifier.reporting)
    progress.line(
        100,
        {
            "loss": 0.25,
            "accuracy": 0.9,
            "top_5_accuracy": 1.0,
            "learning_rate": 0.1,
            "perf/steps_per_sec": 20.0,
            "perf/images_per_sec": 1280.0,
        },
    )
    progress.close()
    (line,) = stream.getvalue().splitlines()
    assert line == (
        "step 100/900  loss 0.2500  accuracy 0.9000  lr 1.00e-01  1.3k images/s  eta 0:40"
    )
