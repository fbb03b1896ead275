"""The rows of a sweep with their means, differences, costs and notes."""

from __future__ import annotations

import math
import pathlib

import pytest

from mtfrun.errors import InputError
from mtfrun.rundir import RunRecord, Status
from mtfrun.tools.sweep.comparison import ComparedRow, compare
from mtfrun.tools.sweep.statistics import Estimate, estimate_mean
from mtfrun.tools.sweep.sweep import Sweep, SweepRow
from tests.tools.sweep.synthetic_sweep import Value, write_sweep


def _row(directory: pathlib.Path, *values: Value, baseline: tuple[Value, ...]) -> ComparedRow:
    """Returns the row "new" of a sweep of two rows."""
    write_sweep(directory, {"baseline": baseline, "new": values})
    _, row = compare(directory).rows
    return row


def test_a_row_has_its_mean_its_difference_and_the_cost_of_a_run(tmp_path: pathlib.Path) -> None:
    row = _row(tmp_path, 1.0, 2.0, 2.0, baseline=(2.0, 4.0, 3.0))
    loss = row.metrics["loss"]
    assert loss.values == {0: 1.0, 1: 2.0, 2: 2.0}
    assert loss.mean == estimate_mean([1.0, 2.0, 2.0])
    assert loss.difference == estimate_mean([-1.0, -2.0, -1.0])
    assert (row.cost.parameters, row.cost.active_parameters) == (1_500_000, 500_000)
    assert (row.cost.flops_per_token, row.cost.seconds) == (3e6, 11.0)
    assert row.cost.seconds_by_cause["steps"] == 9.0
    assert row.cost.seconds_by_cause["=cause 2"] == pytest.approx(1 / 3)
    assert (row.baseline, row.note) == ("baseline", "")


def test_equal_pairs_have_no_significant_difference(tmp_path: pathlib.Path) -> None:
    difference = _row(tmp_path, 1.0, 2.0, baseline=(1.0, 2.0)).metrics["loss"].difference
    assert difference == Estimate(0.0, 2, 0.0, 0.0) and not difference.excludes_zero


def test_failed_and_missing_runs_are_noted_and_left_out(tmp_path: pathlib.Path) -> None:
    error = "the loss is NaN at step 40; use a smaller rate"
    row = _row(tmp_path, 1.0, None, error, math.nan, baseline=(2.0, 2.0, 2.0, 2.0))
    assert row.note == (
        "1 of 4 seeds; seed 1 not trained; seed 2 failed: the loss is NaN at step 40; "
        "seed 3 without a finite loss"
    )
    assert row.metrics["loss"].difference == Estimate(-1.0, 1)


def test_a_row_without_a_finished_run_is_a_row(tmp_path: pathlib.Path) -> None:
    row = _row(tmp_path, None, None, baseline=(2.0, 3.0))
    assert row.note == "0 of 2 seeds; seeds 0, 1 not trained"
    assert row.metrics["loss"].mean is None and row.cost.parameters is None


def test_a_difference_says_how_many_pairs_there_are(tmp_path: pathlib.Path) -> None:
    row = _row(tmp_path, 1.0, 2.0, 3.0, baseline=(2.0, 3.0, None))
    assert row.note == "difference of 2 pairs"
    assert row.metrics["loss"].difference == Estimate(-1.0, 2, -1.0, -1.0)


def test_a_run_in_progress_says_how_far_it_is(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"baseline": [1.0, None]})
    RunRecord(tmp_path / "baseline,SEED=1").write_status(Status("stopped", 40, 500))
    (row,) = compare(tmp_path).rows
    assert row.note == "1 of 2 seeds; seed 1 stopped at step 40 of 500"


def test_results_alone_are_enough(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"baseline": [1.0, 2.0], "new": [2.0, 2.0]}, results=".")
    comparison = compare(tmp_path)
    assert [row.note for row in comparison.rows] == ["", ""]
    assert comparison.environment == {"TensorFlow": "2.21", "host": "host 0 and host 1"}


def test_metric_and_baseline_may_be_others(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"a": [1.0], "b": [3.0]}, baseline=None)
    assert compare(tmp_path).baselines == []
    comparison = compare(tmp_path, ["other", "loss"], "b")
    assert list(comparison.metrics) == ["other", "loss"] and comparison.baselines == ["b"]
    assert comparison.rows[0].metrics["loss"].difference == Estimate(-2.0, 1)
    with pytest.raises(InputError, match="--metric=los: no evaluation has it, did you mean 'loss'"):
        compare(tmp_path, ["los"])
    with pytest.raises(InputError, match="--baseline=c: no row has this name; there are a, b"):
        compare(tmp_path, baseline="c")


def test_rows_of_a_grid_are_compared_at_the_same_values(tmp_path: pathlib.Path) -> None:
    rows = {"old": SweepRow(), "new": SweepRow(bindings={"X": "1"})}
    Sweep(["x.gin"], rows=rows, grid={"LR": ["0.1", "0.2"]}, baseline="old").write(tmp_path)
    assert [(row.name, row.baseline) for row in compare(tmp_path).rows] == [
        ("old,LR=0.1", None),
        ("old,LR=0.2", None),
        ("new,LR=0.1", "old,LR=0.1"),
        ("new,LR=0.2", "old,LR=0.2"),
    ]
