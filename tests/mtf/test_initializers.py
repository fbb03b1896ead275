"""Initializers of variables."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.mtf import initializers

SHAPE = mtf.convert_to_shape("d_model:256;d_ff:1024")
NUM = SHAPE.size


def _draw(initializer: mtf.Initializer) -> np.ndarray:
    return np.asarray(initializer(SHAPE, np.random.default_rng(3)), np.float64)


@pytest.mark.parametrize(
    "initializer, mean, stddev",
    [
        (initializers.RandomNormal(0.5, 1.0), 1.0, 0.5),
        (initializers.TruncatedNormal(0.5, 1.0), 1.0, 0.5 * 0.87962566103423978),
        (initializers.RandomUniform(-1.0, 3.0), 1.0, 4.0 / np.sqrt(12.0)),
    ],
)
def test_draws_have_the_mean_and_deviation_of_the_arguments(
    initializer: mtf.Initializer, mean: float, stddev: float
) -> None:
    draws = _draw(initializer)
    assert draws.shape == (256, 1024)
    assert abs(draws.mean() - mean) < 4 * stddev / np.sqrt(NUM)
    assert abs(draws.std() / stddev - 1.0) < 4 / np.sqrt(NUM)


def test_constants_are_constant() -> None:
    assert (_draw(initializers.Zeros()) == 0.0).all()
    assert (_draw(initializers.Ones()) == 1.0).all()
    assert (_draw(initializers.Constant(0.25)) == 0.25).all()


def test_truncated_draws_stay_within_two_deviations_and_uniform_ones_within_bounds() -> None:
    assert np.abs(_draw(initializers.TruncatedNormal(0.5))).max() <= 1.0
    draws = _draw(initializers.RandomUniform(2.0, 3.0))
    assert draws.min() >= 2.0 and draws.max() < 3.0


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("mode, fan", [("fan_in", 256), ("fan_out", 1024), ("fan_avg", 640)])
def test_variance_scaling_gives_scale_over_fan(distribution: str, mode: str, fan: int) -> None:
    scaling = mtf.VarianceScaling(2.0, mode, distribution)
    draws = _draw(scaling(SHAPE.dims[:1], SHAPE.dims[1:]))
    assert abs(draws.var() * fan / 2.0 - 1.0) < 4 * np.sqrt(2.0 / NUM)


def test_variance_scaling_multiplies_the_dimensions_of_a_fan() -> None:
    scaling = mtf.VarianceScaling()
    heads, key = mtf.Dimension("heads", 4), mtf.Dimension("key", 16)
    assert scaling([heads, key], [mtf.Dimension("d", 9)]).stddev() == 0.125
    assert scaling([], [heads]).stddev() == 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "fan"}, "^mode='fan' must be 'fan_in', 'fan_out' or 'fan_avg'$"),
        ({"distribution": "gauss"}, "^distribution='gauss' must be 'normal'"),
    ],
)
def test_unknown_modes_are_an_error(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mtf.VarianceScaling(1.0, **arguments)
