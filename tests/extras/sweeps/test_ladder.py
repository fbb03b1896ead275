"""Ladders and scaling laws: rows, the fit and its intervals, what to train, the picture."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.analysis.ladder import Ladder, advise, fit_ladder, ladder_rows
from mtfrun.extras.sweeps.analysis.ladder_table import ladder_json, ladder_lines, ladder_picture
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
from mtfrun.extras.sweeps.result import RunResult

LAW = ScalingLaw(math.log(1.2), math.log(60.0), math.log(2000.0), 0.45, 0.55)
SIZES = (50_000, 150_000, 400_000, 900_000)
STEPS = (500, 1000, 2000)
TOKENS_PER_STEP = 1024


def _result(size: int, steps: int, seed: int = 0, noise: float = 0.0) -> RunResult:
    row = f"{size},TRAIN_STEPS={steps}"
    return RunResult(
        f"{row},SEED={seed}",
        row,
        seed,
        {},
        "finished",
        step=steps,
        metrics={"loss": float(LAW.loss(size, steps * TOKENS_PER_STEP)) * (1 + noise)},
        parameters=size,
        flops_per_token=20.0 * size**0.9,
        tokens_per_step=TOKENS_PER_STEP,
    )


RESULTS = [_result(size, steps, 0) for size in SIZES for steps in STEPS]


def _ladder(results: list[RunResult], hold_out: int = 1, draws: int = 5) -> Ladder:
    rows, left_out = ladder_rows(results, "loss", hold_out)
    return fit_ladder(rows, "loss", left_out, draws=draws, seed=0)


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    # The held-out runs end 2 % above the law of the other runs.
    held_out = [_result(SIZES[-1], s, 0, 0.02) for s in STEPS]
    return _ladder([*(r for r in RESULTS if r.parameters != SIZES[-1]), *held_out])


def test_the_runs_of_all_seeds_are_a_row_of_one_size_and_length() -> None:
    rows, left_out = ladder_rows(
        [_result(900, 10, 0), _result(500, 20, 1), _result(500, 20, 0, 0.5)], "loss", 1
    )
    assert [(row.parameters, row.tokens, len(row.losses)) for row in rows] == [
        (500, 20 * TOKENS_PER_STEP, 2),
        (900, 10 * TOKENS_PER_STEP, 1),
    ]
    assert rows[0].mean_loss == pytest.approx(1.25 * float(LAW.loss(500, 20 * TOKENS_PER_STEP)))
    assert [row.held_out for row in rows] == [False, True]
    assert left_out == []
    for hold_out, count in ((0, 0), (2, 2), (9, 4)):
        rows, _ = ladder_rows(RESULTS, "loss", hold_out)
        assert {row.parameters for row in rows if row.held_out} == {*SIZES[len(SIZES) - count :]}


def test_runs_without_a_result_are_left_out_with_their_reason() -> None:
    run = RESULTS[0]
    broken = [
        dataclasses.replace(run, state="failed", error="the loss is not finite"),
        dataclasses.replace(run, state="killed"),
        dataclasses.replace(run, metrics={"loss": math.nan}),
        dataclasses.replace(run, metrics={}),
        dataclasses.replace(run, parameters=None),
    ]
    rows, left_out = ladder_rows([run, *broken], "loss", 0)
    assert [len(row.losses) for row in rows] == [1]
    reasons = ["the loss is not finite", "killed", "its loss is nan", "its loss is nan"]
    reasons.append("its parameters or tokens were not counted")
    assert left_out == [f"{run.name} ({reason})" for reason in reasons]


def test_the_law_is_not_fitted_to_held_out_sizes(ladder: Ladder) -> None:
    errors = {row.tokens: ladder.error(row) for row in ladder.rows if row.held_out}
    assert len(errors) == len(STEPS)
    assert [*errors.values()] == pytest.approx([1 / 1.02 - 1] * 3, abs=1e-4)
    assert max(abs(ladder.error(row)) for row in ladder.rows if not row.held_out) < 1e-4
    lines = ladder_lines(ladder, None, None)
    assert "largest error of the rows held out: 1.96%" in lines
    assert sum("  held out  " in line for line in lines) == 3


@pytest.mark.slow
def test_intervals_of_a_run_have_the_scatter_of_runs() -> None:
    rng = np.random.default_rng(0)
    noisy = [_result(n, s, 0, 0.01 * rng.standard_normal()) for n in SIZES for s in STEPS]
    ladder = _ladder(noisy, hold_out=0, draws=40)
    predicted = ladder.predict(SIZES[-1], STEPS[-1] * TOKENS_PER_STEP)
    loss = float(LAW.loss(SIZES[-1], STEPS[-1] * TOKENS_PER_STEP))
    assert predicted.low < loss < predicted.high
    assert predicted.high - predicted.low > 0.02 * loss


def test_advice_spends_the_budget_by_the_measured_operations(ladder: Ladder) -> None:
    advice = advise(ladder, 1e15)
    assert advice is not None
    cost = 20.0 * advice.parameters.value**0.9
    assert advice.tokens.value * cost == pytest.approx(1e15, rel=1e-3)
    best = LAW.best_allocation(1e15, ladder.cost)
    assert best is not None
    assert advice.parameters.value == pytest.approx(best.parameters, rel=0.02)
    assert advice.loss.value == pytest.approx(best.loss, rel=1e-3)
    (steps,) = (x for x in ladder_lines(ladder, advice, None) if x.startswith("TRAIN_STEPS  "))
    assert float(steps.split()[1].replace(",", "")) == pytest.approx(
        advice.tokens.value / TOKENS_PER_STEP, rel=1e-3
    )


def test_a_law_without_a_best_size_gives_no_advice(ladder: Ladder) -> None:
    worse = dataclasses.replace(ladder, law=dataclasses.replace(ladder.law, beta=-0.1))
    assert advise(worse) is None
    assert "no advice: by this law more parameters or more tokens do not lower loss" in (
        ladder_lines(worse, None, None)
    )
    assert ladder_json(worse, None)["best"] is None
    assert "advice" not in ladder_picture(worse, None).svg()


def test_runs_that_determine_no_law_are_an_error_that_counts_those_left_out() -> None:
    unfinished = dataclasses.replace(RESULTS[0], state="stopped", error="a signal")
    rest = [result for result in RESULTS if result.parameters in SIZES[1:]]
    with pytest.raises(InputError) as raised:
        _ladder([unfinished, *rest])
    assert str(raised.value) == (
        "a scaling law needs 3 sizes of models, 3 numbers of tokens and 6 runs; those that are not "
        "held out have 2, 3 and 6: train more; left out: 1, such as 50000,TRAIN_STEPS=500,SEED=0 "
        "(a signal)"
    )


def test_a_picture_has_a_curve_for_every_size_and_marks_held_out_ones(ladder: Ladder) -> None:
    svg = ladder_picture(ladder, advise(ladder)).svg()
    for text in ("50.0k parameters", "400.0k parameters", "900.0k parameters, held out", "advice"):
        assert f">{text}<" in svg


FITTED_SIZES = (5e4, 1.5e5, 4e5, 9e5, 1.7e6)
LENGTHS = (5e5, 1e6, 2e6, 4e6)
# Of a run's loss, relative.
NOISE = 0.003
# Relative, of the prediction for a model twice as large as the largest.
MOST_ERROR = 0.01
# Relative, of what is fitted to losses without noise.
EXACT = 1e-3


def _points(noise: float = 0.0) -> TrainingPoints:
    parameters, tokens = (x.ravel() for x in np.meshgrid(FITTED_SIZES, LENGTHS))
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
    assert exponent == pytest.approx(LAW.values(TokenCost())["a"])
    assert exponent == pytest.approx(0.55 / (0.45 + 0.55))


def test_the_cost_of_a_token_is_a_power_of_the_size() -> None:
    sizes = np.array(FITTED_SIZES)
    cost = fit_cost(sizes, 30.0 * sizes**0.9)
    assert cost == pytest.approx((30.0, 0.9))


@pytest.mark.parametrize(
    ("sizes", "lengths", "message"),
    [(2, 4, "have 2, 4 and 8: train more"), (5, 2, "have 5, 2 and 10: train more")],
)
def test_too_few_sizes_or_lengths_are_named(sizes: int, lengths: int, message: str) -> None:
    points = _points()
    chosen = np.isin(points.parameters, FITTED_SIZES[:sizes]) & np.isin(
        points.tokens, LENGTHS[:lengths]
    )
    points = TrainingPoints(*(values[chosen] for values in points))
    with pytest.raises(InputError, match=message):
        check_identified(points)
