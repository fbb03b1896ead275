"""Dropout: its share, its mean, and what it depends on."""

from __future__ import annotations

import numpy as np
import pytest

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
    call = layers.Call(training=True, key=mtf.random_key(seed))
    return mtf.to_numpy(two.first(x, call)), mtf.to_numpy(two.second(x, call))


def test_dropout_drops_its_share_and_scales_the_others() -> None:
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
    assert layers.Dropout(0.5)(x, layers.Call()) is x


def test_training_without_a_key_is_refused() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    two = _Two()
    mtf.initialize(two)
    with pytest.raises(ValueError, match="first needs random numbers in training"):
        two.first(x, layers.Call(training=True))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"dropout_rate is .* at least 0 and less than 1"):
        layers.Dropout(rate)
