"""Tests of mtfrun.training.progress."""

from __future__ import annotations

import io

from mtfrun.training.progress import Progress


def test_a_line_says_step_loss_rate_speed_and_time_left():
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
