"""Mixup: the distribution of the coefficients, the loss, layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call
from mtfrun.models import Loss
from mtfrun.models.resnet import (
    Blocking,
    ImageInput,
    ImageLoss,
    ResNet,
    beta_quantiles,
    mix_with_previous,
    mixing_coefficients,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import BATCH, image_batch, on_mesh, small_resnet

ALPHA = 0.4


@pytest.mark.parametrize(
    ("alpha", "distribution"),
    [
        (0.5, lambda x: 2 / np.pi * np.arcsin(np.sqrt(x))),
        (1.0, lambda x: x),
        (2.0, lambda x: 3 * x**2 - 2 * x**3),
        (3.0, lambda x: 10 * x**3 - 15 * x**4 + 6 * x**5),
    ],
)
def test_the_quantiles_are_those_of_the_beta_distribution(
    alpha: float, distribution: Callable[[np.ndarray], np.ndarray]
) -> None:
    for count in (7, 1024):
        quantiles = beta_quantiles(alpha, count).astype(np.float64)
        np.testing.assert_allclose(
            distribution(quantiles), (np.arange(count) + 0.5) / count, atol=1e-5
        )


@pytest.mark.parametrize("alpha", [0.1, 0.2, 8.0])
def test_the_quantiles_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    quantiles = beta_quantiles(alpha, 1024).astype(np.float64)
    assert quantiles.mean() == pytest.approx(0.5, abs=1e-6)
    assert quantiles.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=5e-3)
    assert quantiles[0] >= 0.0 and quantiles[-1] <= 1.0 and (np.diff(quantiles) >= 0).all()


def _coefficients(mesh: mtf.Mesh, weights: np.ndarray, step: int = 0) -> np.ndarray:
    tensor = mtf.import_tf_tensor(mesh, weights, [mtf.Dimension("batch", len(weights))])
    draw = mtf.function(lambda w: mixing_coefficients(w, mtf.random_key(step), ALPHA))
    return mtf.to_numpy(draw(tensor))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", ["data:2,model:1", "data:4,model:2", "data:8,model:1"])
def test_every_layout_mixes_the_same_images(mesh_shape: str) -> None:
    images = np.random.default_rng(0).normal(size=[8, 3, 4, 2]).astype(np.float32)
    mesh = mtf.Mesh(mesh_shape, "batch:data")
    ones = np.ones([8], np.float32)
    coefficients = _coefficients(mesh, ones)
    np.testing.assert_array_equal(coefficients, _coefficients(mtf.Mesh(ONE_DEVICE), ones))
    assert len(set(coefficients)) > 4
    assert not np.array_equal(coefficients, _coefficients(mesh, ones, 1))
    shape = mtf.convert_to_shape("batch:8;rows:3;cols:4;channels:2")
    mixtures = mtf.function(mix_with_previous)(
        mtf.import_tf_tensor(mesh, images, shape),
        mtf.import_tf_tensor(mesh, coefficients, shape.dims[:1]),
    )
    assert_close(mtf.to_numpy(mixtures), _mixed(images, coefficients))


def _mixed(images: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Returns every image mixed with the previous one, with numpy."""
    coefficients = coefficients.reshape(-1, 1, 1, 1)
    return coefficients * images + (1 - coefficients) * np.roll(images, 1, 0)


def test_padding_is_not_mixed_into_images() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    coefficients = _coefficients(mesh, np.array([1, 1, 0, 1], np.float32))
    without_padding = _coefficients(mesh, np.ones([4], np.float32))
    assert coefficients[3] == 1.0 and (without_padding < 1.0).all()
    np.testing.assert_array_equal(coefficients[:3], without_padding[:3])


def test_mixup_without_a_key_is_an_error() -> None:
    weights = mtf.ones(mtf.Mesh(ONE_DEVICE), [mtf.Dimension("batch", 2)])
    with pytest.raises(InputError, match="mixup and CutMix need a key in training"):
        ImageLoss(mixup_alpha=ALPHA).mix(weights, weights, weights, Call(training=True))


def _loss_and_gradients(
    model: ResNet, mesh: mtf.Mesh, features: dict[str, mtf.Tensor], step: int
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Returns the total, its gradients and the metrics, as arrays."""
    trainable = {path: v for path, v in model.named_variables().items() if v.trainable}

    def run(features: dict[str, mtf.Tensor]) -> tuple[Any, ...]:
        def total() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=True, key=mtf.random_key(step))
            return loss.total, loss

        (value, loss), gradients = mtf.value_and_gradients(total, trainable)
        return value, gradients, loss.metrics

    return mtf.to_numpy(mtf.function(run)(features))


def test_the_loss_is_that_of_both_labels_weighted_by_the_coefficients() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    plain_input = ImageInput(crop_padding=0)
    loss = ImageLoss(label_smoothing=0.2, mixup_alpha=ALPHA)
    model = small_resnet(mesh, image_input=plain_input, loss=loss)
    mtf.initialize(model, seed=3)
    batch, step = image_batch(), 4
    value, gradients, metrics = _loss_and_gradients(model, mesh, on_mesh(mesh, batch), step)

    key = mtf.random_key(step).fold_in("mixup")
    ones = mtf.ones(mesh, [mtf.Dimension("batch", BATCH)])
    draw = mtf.function(lambda w: mixing_coefficients(w, key, ALPHA))
    coefficients = mtf.to_numpy(draw(ones))
    images = (batch["images"].astype(np.float32) - 127.5) / 127.5
    images = _mixed(images, coefficients).astype(np.float32)
    # The loss is linear in the weights, which here are the coefficients.
    parts = [
        {"images": images, "labels": labels.astype(np.int32), "weights": part.astype(np.float32)}
        for labels, part in (
            (batch["labels"], coefficients),
            (np.roll(batch["labels"], 1), 1 - coefficients),
        )
    ]
    plain = small_resnet(mesh, image_input=plain_input, loss=ImageLoss(label_smoothing=0.2))
    mtf.initialize(plain, seed=3)
    results = [_loss_and_gradients(plain, mesh, on_mesh(mesh, part), step) for part in parts]
    assert_close(value, sum(part[0] for part in results), FLOAT32_MODEL_TOLERANCE)
    for path, gradient in gradients.items():
        expected = sum(part[1][path] for part in results)
        assert_close(gradient, expected, FLOAT32_MODEL_TOLERANCE)
    for name, metric in metrics.items():
        expected_total = sum(part[2][name].total for part in results)
        assert_close(metric.total, expected_total, FLOAT32_MODEL_TOLERANCE)
        assert metric.weight == BATCH
    assert metrics["loss"].total != pytest.approx(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "layout", "blocks"),
    [
        pytest.param("data:4,model:1", "batch:data", 1, marks=pytest.mark.slow),
        ("data:2,model:2", "row_blocks:data;col_blocks:model", 2),
    ],
)
def test_a_step_with_mixup_is_that_of_one_device(mesh_shape: str, layout: str, blocks: int) -> None:
    def step(
        mesh_shape: str, layout: str, blocks: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
        mesh = mtf.Mesh(mesh_shape, layout)
        loss = ImageLoss(label_smoothing=0.1, mixup_alpha=ALPHA)
        model = small_resnet(mesh, blocking=Blocking(blocks, blocks), loss=loss)
        mtf.initialize(model, seed=2)
        return _loss_and_gradients(model, mesh, on_mesh(mesh, image_batch()), 5)

    expected, actual = step(ONE_DEVICE, "", 1), step(mesh_shape, layout, blocks)
    assert_close(actual[0], expected[0], FLOAT32_MODEL_TOLERANCE)
    for path, gradient in expected[1].items():
        assert_close(actual[1][path], gradient, FLOAT32_MODEL_TOLERANCE)


def test_a_negative_alpha_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mixup_alpha is -0\.1: it must be at least 0"):
        ImageLoss(mixup_alpha=-0.1)
