"""Losses against their formulas in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtfrun import layers, mtf
from tests.layers.differentiated import output_and_gradients
from tests.layouts import ONE_DEVICE, assert_close

VOCAB = mtf.Dimension("vocab", 10)
LOGITS = np.random.default_rng(0).normal(size=[6, 10]).astype(np.float32) * 3
IDS = np.asarray([0, 9, 3, 3, 5, 1], np.int32)
SETTINGS = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.03)]


def _expected(smoothing: float, z_loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses, and the gradients of their weighted sum as `differentiated` weighs it."""
    logits = LOGITS.astype(np.float64)
    log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = (1 - smoothing) * np.eye(10)[IDS] + smoothing / 10
    losses = -(targets * (logits - log_z)).sum(-1) + z_loss * log_z[:, 0] ** 2
    probabilities = np.exp(logits - log_z)
    gradients = probabilities - targets + 2 * z_loss * log_z * probabilities
    direction = np.random.default_rng(3).normal(size=6)
    return losses, gradients * direction[:, np.newaxis]


@pytest.mark.parametrize("smoothing, z_loss", SETTINGS)
def test_cross_entropy_with_ids_is_the_formula(smoothing: float, z_loss: float) -> None:
    results = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_ids(
            inputs["logits"], inputs["ids"], VOCAB, label_smoothing=smoothing, z_loss=z_loss
        ),
        {"logits": ("batch:6;vocab:10", LOGITS), "ids": ("batch:6", IDS)},
    )
    losses, gradients = _expected(smoothing, z_loss)
    assert_close(results["output"], losses)
    assert_close(results["logits"], gradients)


@pytest.mark.parametrize("smoothing, z_loss", SETTINGS)
def test_cross_entropy_with_probabilities_is_the_formula(smoothing: float, z_loss: float) -> None:
    targets = ((1 - smoothing) * np.eye(10)[IDS] + smoothing / 10).astype(np.float32)
    results = output_and_gradients(
        ONE_DEVICE,
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_logits(
            inputs["logits"], mtf.stop_gradient(inputs["targets"]), VOCAB, z_loss
        ),
        {"logits": ("batch:6;vocab:10", LOGITS), "targets": ("batch:6;vocab:10", targets)},
    )
    losses, gradients = _expected(smoothing, z_loss)
    assert_close(results["output"], losses)
    assert_close(results["logits"], gradients)


def test_sigmoid_cross_entropy_is_right_at_zero_and_for_large_logits() -> None:
    mesh = mtf.Mesh()
    logits = mtf.import_tf_tensor(mesh, np.asarray([0.0, 200.0, -200.0], np.float32), "n:3")
    targets = mtf.import_tf_tensor(mesh, np.asarray([0.25, 0.25, 0.25], np.float32), "n:3")

    def fn(logits: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor | None]:
        loss = layers.sigmoid_cross_entropy_with_logits(logits, targets)
        return loss, mtf.gradients([loss], [logits])[0]

    loss, gradient = mtf.to_numpy(mtf.function(fn)(logits))
    assert_close(loss, [math.log(2.0), 150.0, 50.0])
    assert_close(gradient, [0.25, 0.75, -0.25])


def test_sigmoid_cross_entropy_refuses_other_dimensions() -> None:
    mesh = mtf.Mesh()
    with pytest.raises(mtf.ShapeError, match=r"logits .* and targets .* the same dimensions: use"):
        layers.sigmoid_cross_entropy_with_logits(mtf.zeros(mesh, "n:3"), mtf.zeros(mesh, "m:3"))
