"""Batch normalisation: the same on every layout, and moving averages that move."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

SHAPE = mtf.convert_to_shape("batch:8;row_blocks:2;rows:3;columns:4;channels:4")
CHANNELS = SHAPE.dims[-1]
WHERE = [
    ("data:1,model:1", ""),
    ("data:8,model:1", "batch:data"),
    ("data:2,model:2", "batch:data;row_blocks:model"),
    ("data:4,model:2", "batch:data;channels:model"),
]
# The kernel that TensorFlow fuses sums in another order than a mean of means.
TOLERANCE = FLOAT32_MODEL_TOLERANCE


def _batch(step: int) -> np.ndarray:
    rng = np.random.default_rng(step)
    return 2.0 + rng.standard_normal(SHAPE.to_integer_list, np.float32) * (1.0 + step)


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))


@pytest.mark.parametrize("mesh_shape, layout", WHERE)
@pytest.mark.parametrize("epsilon", [1e-5, 1e-9])  # with the fused kernel, and without
def test_normalising_equals_numpy_with_gradients_under_every_layout(
    epsilon: float, mesh_shape: str, layout: str
) -> None:
    x, cotangent = _batch(0), _batch(1)
    scale, bias = np.float32([1, 2, 3, 4]), np.float32([-1, 0, 1, 2])
    mean, variance = _statistics(x)
    inverse = 1.0 / np.sqrt(variance + epsilon)
    normal = (x - mean) * inverse
    # Ioffe and Szegedy 2015, section 3: the gradients of the transform.
    count = x.size // scale.size
    scale_gradient = (cotangent * normal).sum((0, 1, 2, 3))
    bias_gradient = cotangent.sum((0, 1, 2, 3))
    centred = cotangent - bias_gradient / count - normal * scale_gradient / count
    x_gradient = centred * inverse * scale

    def run(
        x: mtf.Tensor, scale: mtf.Tensor, bias: mtf.Tensor, cotangent: mtf.Tensor
    ) -> list[mtf.Tensor]:
        y, *statistics = mtf.batch_normalize(x, scale, bias, epsilon)
        return [y, *statistics, *mtf.gradients([y], [x, scale, bias], [cotangent])]

    mesh = mtf.Mesh(mesh_shape, layout)
    results = mtf.function(run)(
        mtf.import_tf_tensor(mesh, x, SHAPE),
        mtf.import_tf_tensor(mesh, scale, [CHANNELS]),
        mtf.import_tf_tensor(mesh, bias, [CHANNELS]),
        mtf.import_tf_tensor(mesh, cotangent, SHAPE),
    )
    expected = [normal * scale + bias, mean, variance, x_gradient, scale_gradient, bias_gradient]
    for actual, wanted in zip(results, expected, strict=True):
        assert_close(mtf.to_numpy(actual), wanted, TOLERANCE)


@pytest.mark.parametrize("mesh_shape, layout", WHERE)
def test_moving_averages_follow_the_batches_and_are_used_in_evaluation(
    mesh_shape: str, layout: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    norm = layers.BatchNorm(mesh, [CHANNELS], momentum=0.75)
    mtf.initialize(norm)
    variables = norm.named_variables()

    def train(x: mtf.Tensor) -> mtf.Tensor:
        y, updates = norm(x, training=True)
        for path, value in updates.items():
            mtf.assign(variables[path], value)
        return y

    step = mtf.function(train)
    mean, variance = np.zeros(4), np.ones(4)
    for i in range(3):
        x = _batch(i)
        step(mtf.import_tf_tensor(mesh, x, SHAPE))
        batch_mean, batch_variance = _statistics(x)
        mean = 0.75 * mean + 0.25 * batch_mean
        variance = 0.75 * variance + 0.25 * batch_variance
    assert_close(mtf.to_numpy(norm.moving_mean), mean)
    assert_close(mtf.to_numpy(norm.moving_variance), variance)
    x = _batch(9)
    y, updates = mtf.function(lambda x: norm(x, training=False))(
        mtf.import_tf_tensor(mesh, x, SHAPE)
    )
    assert updates == {}
    assert_close(mtf.to_numpy(y), (x - mean) / np.sqrt(variance + 1e-5))


def test_only_scale_and_bias_are_trained() -> None:
    norm = layers.BatchNorm(mtf.Mesh(), [CHANNELS], init_zero=True)
    mtf.initialize(norm)
    trained = {path for path, v in norm.named_variables().items() if v.trainable}
    assert trained == {"scale", "bias"}
    assert mtf.to_numpy(norm.scale).tolist() == [0, 0, 0, 0]


def test_updates_of_microbatches_average_to_the_update_of_their_statistics() -> None:
    mesh = mtf.Mesh()
    norm = layers.BatchNorm(mesh, [CHANNELS], momentum=0.5)
    mtf.initialize(norm)
    new = [
        mtf.to_numpy(norm(mtf.import_tf_tensor(mesh, _batch(i), SHAPE), training=True)[1])
        for i in range(2)
    ]
    mean = np.mean([_statistics(_batch(i))[0] for i in range(2)], axis=0)
    assert_close((new[0]["moving_mean"] + new[1]["moving_mean"]) / 2, 0.5 * mean)


def test_bfloat16_pictures_have_float32_statistics() -> None:
    mesh = mtf.Mesh()
    norm = layers.BatchNorm(mesh, [CHANNELS])
    mtf.initialize(norm)
    x = mtf.to_bfloat16(mtf.import_tf_tensor(mesh, _batch(0), SHAPE))
    y, updates = norm(x, training=True)
    assert y.dtype == tf.bfloat16
    assert updates["moving_mean"].dtype == tf.float32
    mean, _ = _statistics(mtf.to_numpy(mtf.to_float(x)))
    assert_close(mtf.to_numpy(updates["moving_mean"]), 0.1 * mean)


def test_a_bias_of_another_shape_than_the_scale_is_an_error() -> None:
    mesh = mtf.Mesh()
    with pytest.raises(mtf.ShapeError, match="the scale has the shape"):
        mtf.batch_normalize(mtf.zeros(mesh, SHAPE), mtf.ones(mesh, [CHANNELS]), mtf.zeros(mesh, []))
