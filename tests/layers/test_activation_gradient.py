"""Gradients of activations are clipped by their root mean square."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import layers, mtf
from tests.layers.differentiated import output_and_gradients
from tests.layouts import ONE_DEVICE, assert_close

X = np.random.default_rng(0).normal(size=[6, 10]).astype(np.float32)
# The gradient that tests/layers/differentiated.py sends.
SENT = np.random.default_rng(3).normal(size=[6, 10])
RMS = float(np.sqrt(np.mean(SENT**2)))


@pytest.mark.parametrize(
    "clip_rms_norm, factor", [(RMS / 4, 0.25), (RMS * 1.01, 1.0), (1e9, 1.0), (None, 1.0)]
)
def test_a_gradient_is_scaled_down_to_the_bound(clip_rms_norm: float | None, factor: float) -> None:
    found = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, given, context: layers.clip_activation_gradient(given["x"], clip_rms_norm),
        {"x": ("batch:6;d_model:10", X)},
    )
    np.testing.assert_array_equal(found["output"], X)
    assert_close(found["x"], SENT * factor)


@pytest.mark.parametrize("clip_rms_norm", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_not_positive_is_refused(clip_rms_norm: float) -> None:
    with pytest.raises(ValueError, match="clip_rms_norm=.* must be positive, or None not to clip"):
        layers.clip_activation_gradient(mtf.ones(mtf.Mesh(ONE_DEVICE), "a:4"), clip_rms_norm)
