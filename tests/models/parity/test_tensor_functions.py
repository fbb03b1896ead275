"""Mesh TensorFlow's annealed dropout, jitter, bounded gradients, and lengths of outputs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from mtfrun.models import parity
from tests.layers.differentiated import output_and_gradients
from tests.layouts import ONE_DEVICE, assert_close

SIZE = 40000
X = np.random.default_rng(0).normal(size=[6, 10]).astype(np.float32)
# The gradient of the output in tests/layers/differentiated.py.
SENT = np.random.default_rng(3).normal(size=[6, 10])
RMS = float(np.sqrt(np.mean(SENT**2)))
IDS = [[5, 5, 5, 0], [5, 0, 0, 0], [0, 0, 0, 0]]


def _annealed(step: int) -> np.ndarray:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, now = mtf.ones(mesh, [("batch", SIZE)]), mtf.constant(mesh, step, dtype=tf.int64)
    return mtf.to_numpy(
        parity.annealed_dropout(
            x, True, 100, 200, init_rate=0.5, step=now, key=mtf.random_key(step)
        )
    )


@pytest.mark.parametrize(
    "step, rate", [(0, 0.5), (100, 0.5), (150, 0.25), (180, 0.1), (200, 0.0), (999, 0.0)]
)
def test_annealed_dropout_has_the_rate_of_the_step(step: int, rate: float) -> None:
    y = _annealed(step)
    scale = np.float32(1 / (1 - rate))
    assert np.mean(y == 0.0) == pytest.approx(rate, abs=5 * (0.25 / SIZE) ** 0.5 * (rate > 0))
    np.testing.assert_allclose(y[y != 0.0], scale, rtol=1e-6)


def test_annealed_dropout_shares_its_noise_along_dimensions_outside_noise_shape() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x = mtf.ones(mesh, "a:64;b:4")
    y = mtf.to_numpy(
        parity.annealed_dropout(
            x, True, 1, 2, 0.5, "a:64", step=mtf.constant(mesh, 0.0), key=mtf.random_key(0)
        )
    )
    np.testing.assert_array_equal(y, np.repeat(y[:, :1], 4, axis=1))
    assert 0.0 < np.mean(y == 0.0) < 1.0


def test_annealed_dropout_does_nothing_outside_of_training_or_without_a_rate() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, step, key = mtf.ones(mesh, "batch:4"), mtf.zeros(mesh, []), mtf.random_key(0)
    assert parity.annealed_dropout(x, False, 1, 2, 0.5, step=step, key=key) is x
    assert parity.annealed_dropout(x, True, 1, 2, step=step, key=key) is x


@pytest.mark.parametrize(
    "steps, rate, message",
    [
        ((1, 2), 1.0, r"init_rate is 1\.0: it must be at least 0"),
        ((2, 2), 0.5, "annealed_dropout needs start_step < end_step, got 2 and 2"),
    ],
)
def test_annealed_dropout_refuses_bad_rates_and_steps(
    steps: tuple[int, int], rate: float, message: str
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(ValueError, match=message):
        parity.annealed_dropout(
            mtf.ones(mesh, "a:4"),
            True,
            *steps,
            init_rate=rate,
            step=mtf.zeros(mesh, []),
            key=mtf.random_key(0),
        )


def test_noise_along_a_dimension_that_is_not_there_is_refused() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    x, step, key = mtf.ones(mesh, "a:4"), mtf.zeros(mesh, []), mtf.random_key(0)
    with pytest.raises(mtf.ShapeError, match=r"no dimension b:4 in"):
        parity.annealed_dropout(x, True, 1, 2, 0.5, "b:4", step=step, key=key)


def _jittered(seed: int, dtype: tf.DType = tf.float32) -> np.ndarray:
    x = mtf.constant(mtf.Mesh(ONE_DEVICE), 2.0, [("batch", SIZE)], dtype)
    y = parity.multiplicative_jitter(x, 0.1, key=mtf.random_key(seed))
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


def test_jitter_without_an_epsilon_is_the_tensor_itself() -> None:
    x = mtf.ones(mtf.Mesh(ONE_DEVICE), "batch:4")
    assert parity.multiplicative_jitter(x, 0.0, key=mtf.random_key(0)) is x


@pytest.mark.parametrize(
    "clip_rms_norm, factor", [(RMS / 4, 0.25), (RMS * 1.01, 1.0), (1e9, 1.0), (None, 1.0)]
)
def test_a_gradient_is_scaled_down_to_the_bound(clip_rms_norm: float | None, factor: float) -> None:
    results = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: parity.clip_activation_gradient(inputs["x"], clip_rms_norm),
        {"x": ("batch:6;d_model:10", X)},
    )
    np.testing.assert_array_equal(results["output"], X)
    assert_close(results["x"], SENT * factor)


@pytest.mark.parametrize("clip_rms_norm", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_not_positive_is_refused(clip_rms_norm: float) -> None:
    with pytest.raises(ValueError, match=r"clip_rms_norm is .*: it must be more than 0, or None"):
        parity.clip_activation_gradient(mtf.ones(mtf.Mesh(ONE_DEVICE), "a:4"), clip_rms_norm)


@pytest.mark.parametrize(("batch_wide", "expected"), [(False, [14, 11, 0]), (True, [14, 14, 0])])
def test_limits_depend_on_the_inputs_and_are_0_for_padding_rows(
    batch_wide: bool, expected: list[int]
) -> None:
    inputs = mtf.import_tf_tensor(mtf.Mesh(), np.asarray(IDS, np.int32), "batch:3;length:4")
    limits = parity.decode_limits(inputs, 1.5, 10, batch_wide=batch_wide)
    assert mtf.to_numpy(limits).tolist() == expected
