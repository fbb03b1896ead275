"""Means, optima, and rows that are compared."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.analysis.comparison import ComparedRow, compare
from mtfrun.extras.sweeps.analysis.optimum import optima, parabola
from mtfrun.extras.sweeps.analysis.statistics import (
    Difference,
    Estimate,
    correct_for_number,
    estimate_difference,
    estimate_mean,
    resampled_difference,
)
from mtfrun.extras.sweeps.result import Results, RunResult
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow
from mtfrun.rundir import RunRecord, Status
from tests.extras.sweeps.synthetic_sweep import Value, write_sweep

VALUES = {0: 2.31, 1: 2.29, 2: 2.35, 3: 2.30}
BASELINE = {0: 2.35, 1: 2.30, 2: 2.41, 3: 2.33}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_an_interval_of_a_mean_is_that_of_a_t_test(count: int) -> None:
    values = list(VALUES.values())[:count]
    estimate = estimate_mean(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(expected, rel=1e-12)
    assert estimate.mean == pytest.approx(np.mean(values)) and estimate.count == count


def test_an_interval_of_a_difference_is_that_of_a_paired_t_test() -> None:
    estimate = estimate_difference(VALUES, BASELINE)
    test = stats.ttest_rel(list(VALUES.values()), list(BASELINE.values()))
    assert (estimate.low, estimate.high) == pytest.approx(test.confidence_interval(), rel=1e-12)
    assert estimate.p == pytest.approx(test.pvalue, rel=1e-12)


def test_pairs_are_the_seeds_of_both() -> None:
    baseline = {3: 1.0, 1: 2.0, 7: 9.0}
    values = {1: 2.5, 3: 1.25, 4: 100.0}
    estimate = estimate_difference(values, baseline)
    assert _bounds(estimate) == _bounds(estimate_mean([0.5, 0.25]))
    assert estimate_difference({1: 1.0}, {2: 1.0}) == Difference()


def _bounds(estimate: Estimate) -> tuple[float | None, ...]:
    return estimate.mean, estimate.low, estimate.high


@pytest.mark.parametrize("count", [1, 2, 12])
def test_equal_values_have_no_interval_and_equal_differences_no_test(count: int) -> None:
    assert estimate_mean([0.1] * count) == Estimate(0.1, count)
    values, baseline = dict.fromkeys(range(count), 0.5), dict.fromkeys(range(count), 0.25)
    difference = estimate_difference(values, baseline)
    assert correct_for_number([difference]) == [Difference(0.25, count)]
    assert not difference.is_significant


def test_q_is_that_of_benjamini_and_hochberg() -> None:
    # The example of Benjamini and Hochberg 1995, section 3.2: four of 15 hypotheses are rejected.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    p_values += [0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    shuffled = np.random.default_rng(0).permutation(p_values)
    tested = correct_for_number([Difference(1.0, 3, 0.5, 1.5, p=p) for p in shuffled])
    by_p = {x.p: x for x in tested}
    assert [by_p[p].is_significant for p in p_values] == [True] * 4 + [False] * 11
    assert by_p[0.0001].q == pytest.approx(0.0001 * 15)
    assert by_p[0.0344].q == pytest.approx(0.0344 * 15 / 8)
    untested = Difference(1.0, 1)
    assert correct_for_number([untested, *tested])[0] == untested
    assert correct_for_number([untested, *tested])[1:] == tested


def test_equal_resamples_have_no_interval() -> None:
    assert resampled_difference(3.0, [3.0, 2.0], 1.0, [1.0, 0.0], 5) == Difference(2.0, 1)


def test_ten_values_are_bootstrapped() -> None:
    values = np.random.default_rng(3).exponential(size=10).tolist()
    estimate = estimate_mean(values)
    assert estimate == estimate_mean(values)
    low, high = (abs(x - (estimate.mean or 0.0)) for x in (estimate.low or 0, estimate.high or 0))
    # The distribution is skewed to the right, and so is the interval, unlike Student's.
    assert high > 1.1 * low > 0
    nine = estimate_mean(values[:9])
    expected = stats.ttest_1samp(values[:9], 0.0).confidence_interval(0.95)
    assert (nine.low, nine.high) == pytest.approx(expected)


RATES = [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4]


def _loss(lowest: float) -> Callable[[float], float]:
    """Returns a parabola in the logarithm, that rises faster to the right of 0.2."""
    return lambda rate: 2.0 + 0.1 * math.log2(rate / lowest) ** 2 + max(0.0, rate - 0.2) * 9


def _results(lowest: dict[str, float]) -> list[RunResult]:
    """Returns runs of two seeds, whose optima are half an octave apart, around the lowest."""
    results = []
    for row, centre in lowest.items():
        for rate in RATES:
            for seed in (0, 1):
                loss = _loss(centre * 2 ** (seed - 0.5) ** 3)(rate)
                name = f"{row},LEARNING_RATE={rate}"
                values = {"D_MODEL": "64", "LEARNING_RATE": str(rate)}
                metrics = {"loss": loss, "accuracy": 3.0 - loss}
                results.append(RunResult(name, name, seed, values, "finished", metrics=metrics))
    return results


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_optimum_is_the_minimum_of_the_parabola_of_the_means(metric: str) -> None:
    by_row = optima(_results({"narrow": 0.04, "wide, deep": 0.03}), "LEARNING_RATE", metric)
    assert list(by_row) == ["narrow", "wide, deep"]
    narrow, wide = by_row.values()
    assert narrow.curve is not None and wide.curve is not None
    assert narrow.curve.lowest == pytest.approx(0.04, rel=0.01)
    assert wide.curve.lowest == pytest.approx(0.03, rel=0.01)
    # The standard error of two seeds is half their distance.
    assert narrow.octaves == pytest.approx(0.125, rel=0.01)
    # What the optimum of the other row costs.
    cost = abs(wide.curve.at(narrow.curve.lowest) - wide.curve.height)
    assert cost == pytest.approx(0.1 * math.log2(4 / 3) ** 2, rel=0.02)


@pytest.mark.parametrize("lowest", [0.005, 0.6])
def test_an_optimum_at_the_end_of_the_values_is_none(lowest: float) -> None:
    assert parabola(RATES, [abs(math.log(rate / lowest)) for rate in RATES]) is None


def test_losses_that_are_not_finite_are_left_out() -> None:
    losses = [_loss(0.04)(rate) for rate in RATES[:-1]]
    curve = parabola(RATES, [*losses, math.nan])
    assert curve is not None and curve.lowest == pytest.approx(0.04)
    assert parabola(RATES, [math.inf] * len(RATES)) is None


def test_runs_that_have_not_finished_are_left_out() -> None:
    results = _results({"narrow": 0.04})
    failed = RunResult("x", "x", 0, {"LEARNING_RATE": "9"}, "failed", "out of memory")
    assert optima([*results, failed], "LEARNING_RATE", "loss").keys() == {"narrow"}


@pytest.mark.parametrize(
    ("parameter", "metric", "message"),
    [
        ("LEARNING_RAT", "loss", "has no value of 'LEARNING_RAT', did you mean 'LEARNING_RATE'"),
        ("LEARNING_RATE", "bleu", "has no metric 'bleu', but loss, accuracy"),
    ],
)
def test_a_wrong_name_is_an_error(parameter: str, metric: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optima(_results({"narrow": 0.04}), parameter, metric)


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
    assert _bounds(loss.difference) == _bounds(estimate_mean([-1.0, -2.0, -1.0]))
    assert loss.difference.q == pytest.approx(stats.ttest_1samp([-1.0, -2.0, -1.0], 0).pvalue)
    assert (row.cost.parameters, row.cost.active_parameters) == (1_500_000, 500_000)
    assert (row.cost.flops_per_token, row.cost.seconds) == (3e6, 11.0)
    assert row.cost.seconds_by_cause["steps"] == 9.0
    assert row.cost.seconds_by_cause["=cause 2"] == pytest.approx(1 / 3)
    assert (row.baseline, row.note) == ("baseline", "")


def test_failed_and_missing_runs_are_noted_and_left_out(tmp_path: pathlib.Path) -> None:
    error = "the loss is NaN at step 40; use a smaller rate"
    row = _row(tmp_path, 1.0, None, error, math.nan, baseline=(2.0, 2.0, 2.0, 2.0))
    assert row.note == (
        "1 of 4 seeds; seed 1 not trained; seed 2 failed: the loss is NaN at step 40; "
        "seed 3 without a finite loss"
    )
    assert row.metrics["loss"].difference == Difference(-1.0, 1)


def test_a_metric_that_some_runs_lack_is_noted(tmp_path: pathlib.Path) -> None:
    write_sweep(tmp_path, {"baseline": [2.0, 2.0], "new": [1.0, 1.0]})
    results = Results(tmp_path / "results")
    run = results.read()["new,SEED=1"]
    results.write(dataclasses.replace(run, metrics={"loss": 1.0}))
    _, row = compare(tmp_path, ["loss", "other"]).rows
    assert row.note == "seed 1 without other"
    assert (len(row.metrics["loss"].values), len(row.metrics["other"].values)) == (2, 1)


def test_a_row_without_a_finished_run_is_a_row(tmp_path: pathlib.Path) -> None:
    row = _row(tmp_path, None, None, baseline=(2.0, 3.0))
    assert row.note == "0 of 2 seeds; seeds 0, 1 not trained"
    assert row.metrics["loss"].mean == Estimate() and row.cost.parameters is None


def test_a_difference_says_how_many_pairs_there_are(tmp_path: pathlib.Path) -> None:
    row = _row(tmp_path, 1.0, 2.0, 3.0, baseline=(2.0, 3.0, None))
    assert row.note == "difference of 2 pairs"
    assert row.metrics["loss"].difference == Difference(-1.0, 2)


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
    assert comparison.rows[0].metrics["loss"].difference == Difference(-2.0, 1)
    with pytest.raises(InputError, match="--metric=los: no evaluation has it, did you mean 'loss'"):
        compare(tmp_path, ["los"])
    with pytest.raises(InputError, match="--baseline=c: no row has this name; there are a, b"):
        compare(tmp_path, baseline="c")


def test_rows_of_a_grid_are_compared_at_the_same_values(tmp_path: pathlib.Path) -> None:
    rows = {"old": SweepRow(), "new": SweepRow(bindings={"X": "1"})}
    sweep = Sweep(["x.gin"], rows=rows, grid={"LR": ["0.1", "0.2"]}, baseline="old")
    Results(tmp_path).write_sweep(sweep)
    assert [(row.name, row.baseline) for row in compare(tmp_path).rows] == [
        ("old,LR=0.1", None),
        ("old,LR=0.2", None),
        ("new,LR=0.1", "old,LR=0.1"),
        ("new,LR=0.2", "old,LR=0.2"),
    ]
