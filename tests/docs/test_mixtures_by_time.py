"""docs/mixtures_by_time.py on results with known answers."""

from __future__ import annotations

import math
import pathlib

import pytest

from docs import mixtures_by_time
from mtfrun.extras.sweeps.result import results_of
from tests.bench.results import make_result, write_results

FAST, SLOW = 1.1, 1.5  # step times, relative to the dense model's


def dense_loss(steps: float) -> float:
    return 3.0 - 0.1 * math.log(steps)


def test_a_mixture_is_compared_with_a_dense_model_of_equal_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mixture is as good as a dense model with a quarter more steps.
    losses = {"dense": dense_loss, "dense, 8,000 steps": dense_loss}
    losses |= dict.fromkeys(["fast", "slow"], lambda steps: dense_loss(1.25 * steps))
    results, times = [], []
    for row, loss in losses.items():
        last = 8000 if "8,000" in row else 4000
        evaluations = {str(step): loss(step) for step in range(1000, last + 1, 1000)}
        for seed in range(2):
            metrics = {"bits_per_byte": loss(last)}
            fields = {"step": last, "evaluations": evaluations}
            fields |= {"flops_per_token": 1e6, "tokens_per_step": 1024}
            results.append(make_result(row, seed, metrics, **fields))
            milliseconds = 40 * {"fast": FAST, "slow": SLOW}.get(row, 1.0)
            times.append(make_result(row, seed, {"milliseconds_a_step": milliseconds}))
    write_results(tmp_path / "mixtures_quickstart.jsonl", "?", results, "bits_per_byte", "dense")
    write_results(tmp_path / "mixtures_steps.jsonl", "?", times, "milliseconds_a_step")
    monkeypatch.setattr(mixtures_by_time, "RESULTS", tmp_path)
    monkeypatch.setattr(mixtures_by_time, "PICTURE", tmp_path / "mixtures.svg")
    mixtures_by_time.main()
    _, compared = results_of(str(tmp_path / "mixtures_by_time.jsonl"))
    assert [(run.row, run.seed) for run in compared] == [
        *(("fast", 0), ("fast", 1)),
        *(("slow", 0), ("slow", 1)),
    ]
    for run, step_time in zip(compared, [FAST, FAST, SLOW, SLOW], strict=True):
        assert run.metrics["seconds_relative_to_dense"] == pytest.approx(step_time)
        assert run.metrics["step_time_to_win"] == pytest.approx(1.25, abs=1e-3)
        expected = dense_loss(4000 * step_time)
        assert run.metrics["bits_per_byte_of_dense"] == pytest.approx(expected)
        difference = run.metrics["bits_per_byte"] - expected
        assert run.metrics["difference_at_equal_time"] == pytest.approx(difference)
        assert (difference < 0) == (run.row == "fast")
    assert "operations" in (tmp_path / "mixtures.svg").read_text()
