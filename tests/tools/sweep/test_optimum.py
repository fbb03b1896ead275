"""The optimum of a setting over a sweep: parabolas through the means over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mtfrun.errors import InputError
from mtfrun.tools.sweep.optimum import optima, parabola, picture
from mtfrun.tools.sweep.result import RunResult

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
    cost = abs(wide.metric_at(narrow.curve.lowest) - wide.metric_at(wide.curve.lowest))
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


def test_the_picture_has_a_curve_for_every_row() -> None:
    by_row = optima(_results({"narrow": 0.04, "wide": 0.03}), "LEARNING_RATE", "loss")
    svg = picture(by_row, "LEARNING_RATE", "loss").svg()
    assert ">narrow</text>" in svg and ">wide</text>" in svg
