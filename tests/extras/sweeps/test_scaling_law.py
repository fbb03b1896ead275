"""Scaling laws: the fit, its intervals, the best size for a budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.analysis.scaling_law import (
    Allocation,
    ScalingLaw,
    TokenCost,
    TrainingPoints,
    bootstrap_laws,
    check_identified,
    fit_cost,
    fit_law,
)
from mtfrun.extras.sweeps.analysis.statistics import interval

LAW = ScalingLaw(math.log(1.2), math.log(60.0), math.log(2000.0), 0.45, 0.55)
SIZES = (5e4, 1.5e5, 4e5, 9e5, 1.7e6)
LENGTHS = (5e5, 1e6, 2e6, 4e6)
# Of a run's loss, relative.
NOISE = 0.003
# Relative, of the prediction for a model twice as large as the largest.
MOST_ERROR = 0.01
# Relative, of what is fitted to losses without noise.
EXACT = 1e-3


def _points(noise: float = 0.0) -> TrainingPoints:
    parameters, tokens = (x.ravel() for x in np.meshgrid(SIZES, LENGTHS))
    errors = noise * np.random.default_rng(0).standard_normal(parameters.shape)
    return TrainingPoints(parameters, tokens, LAW.loss(parameters, tokens) * np.exp(errors))


def test_losses_without_noise_give_their_law() -> None:
    law = fit_law(_points())
    assert np.exp([law.log_E, law.log_A, law.log_B]) == pytest.approx([1.2, 60, 2000], rel=EXACT)
    assert [law.alpha, law.beta] == pytest.approx([0.45, 0.55], rel=EXACT)


def test_a_noisy_fit_with_an_outlier_predicts_a_larger_run() -> None:
    points = _points(NOISE)
    points.losses[7] *= 1.5
    prediction = float(fit_law(points).loss(3.4e6, 8e6))
    assert prediction == pytest.approx(float(LAW.loss(3.4e6, 8e6)), rel=MOST_ERROR)


def test_intervals_contain_the_truth_and_depend_on_the_seed_only() -> None:
    points = _points(NOISE)
    law = fit_law(points)
    laws = bootstrap_laws(points, law, 60, seed=1)
    for name in ("log_E", "log_A", "log_B", "alpha", "beta"):
        low, high = interval([getattr(x, name) for x in laws])
        assert low < getattr(LAW, name) < high, name
    low, high = interval([float(x.loss(3.4e6, 8e6)) for x in laws])
    assert low < float(LAW.loss(3.4e6, 8e6)) < high
    assert bootstrap_laws(points, law, 2, seed=1) == laws[:2]
    assert bootstrap_laws(points, law, 2, seed=2) != laws[:2]


@pytest.mark.parametrize("budget", [1e11, 1e13, 1e18])
@pytest.mark.parametrize("cost", [TokenCost(), TokenCost(20.0, 0.9)])
def test_the_best_size_for_a_budget_is_the_numerical_minimum(
    budget: float, cost: TokenCost
) -> None:
    def loss(log_parameters: float) -> float:
        parameters = math.exp(log_parameters)
        return float(LAW.loss(parameters, budget / cost.flops_per_token(parameters)))

    minimum = optimize.minimize_scalar(loss, bounds=(0.0, 60.0), options={"xatol": 1e-9})
    best = LAW.best_allocation(budget, cost)
    assert isinstance(best, Allocation)
    assert best.loss == pytest.approx(minimum.fun, rel=1e-9)
    assert math.log(best.parameters) == pytest.approx(minimum.x, abs=1e-3)
    assert best.tokens * cost.flops_per_token(best.parameters) == pytest.approx(budget)


def test_the_best_size_grows_with_the_exponent_of_the_law() -> None:
    small, large = (LAW.best_allocation(budget, TokenCost()) for budget in (1e12, 1e14))
    assert small is not None and large is not None
    exponent = math.log(large.parameters / small.parameters) / math.log(100)
    assert exponent == pytest.approx(LAW.size_exponent(TokenCost()))
    assert exponent == pytest.approx(0.55 / (0.45 + 0.55))


def test_the_cost_of_a_token_is_a_power_of_the_size() -> None:
    sizes = np.array(SIZES)
    cost = fit_cost(sizes, 30.0 * sizes**0.9)
    assert cost == pytest.approx((30.0, 0.9))


@pytest.mark.parametrize(
    ("sizes", "lengths", "message"),
    [(2, 4, "have 2, 4 and 8: train more"), (5, 2, "have 5, 2 and 10: train more")],
)
def test_too_few_sizes_or_lengths_are_named(sizes: int, lengths: int, message: str) -> None:
    points = _points()
    chosen = np.isin(points.parameters, SIZES[:sizes]) & np.isin(points.tokens, LENGTHS[:lengths])
    points = TrainingPoints(*(values[chosen] for values in points))
    with pytest.raises(InputError, match=message):
        check_identified(points)
