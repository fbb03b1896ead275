"""Means, paired differences, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mtfrun.tools.sweep.statistics import Estimate, estimate_difference, estimate_mean

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
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx(test.confidence_interval(), rel=1e-12)
    assert estimate.excludes_zero == (test.pvalue < 0.05)


def test_pairs_are_the_seeds_of_both() -> None:
    baseline = {3: 1.0, 1: 2.0, 7: 9.0}
    values = {1: 2.5, 3: 1.25, 4: 100.0}
    estimate = estimate_difference(values, baseline)
    assert estimate == estimate_mean([0.5, 0.25])
    assert estimate_difference({1: 1.0}, {2: 1.0}) is None


def test_one_value_has_no_interval_and_is_never_significant() -> None:
    estimate = estimate_mean([3.0])
    assert estimate == Estimate(3.0, 1) and not estimate.excludes_zero


@pytest.mark.parametrize("count", [2, 12])
def test_equal_values_have_an_interval_of_width_zero(count: int) -> None:
    estimate = estimate_mean([0.1] * count)
    assert estimate == Estimate(0.1, count, 0.1, 0.1) and estimate.excludes_zero
    assert not estimate_mean([0.0] * count).excludes_zero


def test_ten_values_are_bootstrapped() -> None:
    values = np.random.default_rng(3).exponential(size=10).tolist()
    estimate = estimate_mean(values)
    assert estimate == estimate_mean(values)
    assert estimate.low is not None and estimate.high is not None
    # The distribution is skewed to the right, and so is the interval, unlike Student's.
    assert estimate.high - estimate.mean > 1.1 * (estimate.mean - estimate.low) > 0
    nine = estimate_mean(values[:9])
    assert nine.low is not None and nine.high is not None
    assert nine.high - nine.mean == pytest.approx(nine.mean - nine.low)


def test_intervals_of_normal_values_contain_the_mean_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    estimates = [estimate_mean(rng.normal(size=3).tolist()) for _ in range(2000)]
    share = np.mean([not estimate.excludes_zero for estimate in estimates])
    assert share == pytest.approx(0.95, abs=0.015)  # 3 standard deviations
