"""Jitter: its interval, its mean, its key."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from tests.layouts import ONE_DEVICE

SIZE = 40000


def _jittered(seed: int, dtype: tf.DType = tf.float32) -> np.ndarray:
    x = mtf.constant(mtf.Mesh(ONE_DEVICE), 2.0, [("batch", SIZE)], dtype)
    y = layers.multiplicative_jitter(x, 0.1, key=mtf.random_key(seed))
    assert y.dtype == dtype
    return mtf.to_numpy(y)


def test_jitter_is_uniform_around_one() -> None:
    factors = _jittered(0) / 2.0
    assert 0.9 <= factors.min() < 0.901 and 1.099 < factors.max() <= 1.1 + 1e-6
    deviation = 0.1 / 3**0.5
    assert np.mean(factors) == pytest.approx(1.0, abs=5 * deviation / SIZE**0.5)
    assert np.std(factors) == pytest.approx(deviation, rel=0.02)


def test_jitter_depends_on_its_key_alone() -> None:
    np.testing.assert_array_equal(_jittered(0), _jittered(0))
    assert np.mean(_jittered(0) == _jittered(1)) < 0.01


def test_jitter_keeps_the_type() -> None:
    assert len(np.unique(_jittered(0, tf.bfloat16))) > 10


def test_jitter_of_nothing_is_the_tensor_itself() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    assert layers.multiplicative_jitter(x, 0.0, key=mtf.random_key(0)) is x
