"""Dropout: its share, its mean, and what it depends on."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from tests.layouts import ONE_DEVICE

SIZE = 40000


class _Two(mtf.Module):
    """Two dropout layers with paths of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dropout(0.25)
        self.second = layers.Dropout(0.25)


def _masks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mesh = mtf.Mesh(ONE_DEVICE)
    two = _Two()
    mtf.initialize(two)
    x = mtf.ones(mesh, [("batch", SIZE)])
    context = layers.Context(training=True, key=mtf.random_key(seed))
    return mtf.to_numpy(two.first(x, context)), mtf.to_numpy(two.second(x, context))


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    first, _ = _masks()
    assert set(np.unique(first)) == {np.float32(0.0), np.float32(1 / 0.75)}
    assert np.mean(first == 0.0) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / SIZE) ** 0.5)


def test_noise_depends_on_the_path_and_the_key_and_nothing_else() -> None:
    first, second = _masks()
    np.testing.assert_array_equal(_masks()[0], first)
    for other in (second, _masks(seed=1)[0]):
        # Independent masks agree at a share of 0.25**2 + 0.75**2.
        assert np.mean((other == 0) == (first == 0)) == pytest.approx(0.625, abs=0.02)


def test_dropout_does_nothing_outside_of_training() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    assert layers.Dropout(0.5)(x, layers.Context()) is x


def test_training_without_a_key_is_refused() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    two = _Two()
    mtf.initialize(two)
    with pytest.raises(ValueError, match="first needs random numbers in training"):
        two.first(x, layers.Context(training=True))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"dropout_rate=.* must be in \[0, 1\)"):
        layers.Dropout(rate)


def _annealed(step: int) -> np.ndarray:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, now = mtf.ones(mesh, [("batch", SIZE)]), mtf.constant(mesh, step, dtype=tf.int64)
    return mtf.to_numpy(
        layers.annealed_dropout(
            x, True, 100, 200, init_rate=0.5, step=now, key=mtf.random_key(step)
        )
    )


@pytest.mark.parametrize(
    "step, rate", [(0, 0.5), (100, 0.5), (150, 0.25), (180, 0.1), (200, 0.0), (999, 0.0)]
)
def test_annealed_dropout_has_the_rate_of_the_step(step: int, rate: float) -> None:
    found = _annealed(step)
    kept = np.float32(1 / (1 - rate))
    assert np.mean(found == 0.0) == pytest.approx(rate, abs=5 * (0.25 / SIZE) ** 0.5 * (rate > 0))
    np.testing.assert_allclose(found[found != 0.0], kept, rtol=1e-6)


def test_annealed_dropout_shares_its_noise_along_dimensions_outside_noise_shape() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x = mtf.ones(mesh, "a:64;b:4")
    found = mtf.to_numpy(
        layers.annealed_dropout(
            x, True, 1, 2, 0.5, "a:64", step=mtf.constant(mesh, 0.0), key=mtf.random_key(0)
        )
    )
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 4, axis=1))
    assert 0.0 < np.mean(found == 0.0) < 1.0


def test_annealed_dropout_does_nothing_outside_of_training_or_without_a_rate() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, given = mtf.ones(mesh, "batch:4"), {"step": mtf.zeros(mesh, []), "key": mtf.random_key(0)}
    assert layers.annealed_dropout(x, False, 1, 2, 0.5, **given) is x
    assert layers.annealed_dropout(x, True, 1, 2, **given) is x


@pytest.mark.parametrize(
    "steps, rate, message",
    [
        ((1, 2), 1.0, r"init_rate=1.0 must be in \[0, 1\)"),
        ((2, 2), 0.5, "annealed_dropout needs start_step < end_step, got 2 and 2"),
    ],
)
def test_what_annealed_dropout_cannot_do_is_refused(
    steps: tuple[int, int], rate: float, message: str
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(ValueError, match=message):
        layers.annealed_dropout(
            mtf.ones(mesh, "a:4"),
            True,
            *steps,
            init_rate=rate,
            step=mtf.zeros(mesh, []),
            key=mtf.random_key(0),
        )


def test_noise_along_a_dimension_that_is_not_there_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    given = {"step": mtf.zeros(mesh, []), "key": mtf.random_key(0)}
    with pytest.raises(mtf.ShapeError, match="no dimension b:4 in"):
        layers.annealed_dropout(mtf.ones(mesh, "a:4"), True, 1, 2, 0.5, "b:4", **given)
