"""Batch normalisation: values and gradients under every layout, moving averages."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

SHAPE = mtf.convert_to_shape("batch:8;row_blocks:2;rows:3;columns:4;channels:4")
CHANNELS = SHAPE.dims[-1]
WHERE = [
    ("data:1,model:1", ""),
    pytest.param("data:8,model:1", "batch:data", marks=pytest.mark.slow),
    ("data:2,model:2", "batch:data;row_blocks:model"),
    pytest.param("data:4,model:2", "batch:data;channels:model", marks=pytest.mark.slow),
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
    scale, bias = np.array([1, 2, 3, 4], np.float32), np.array([-1, 0, 1, 2], np.float32)
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
    ) -> list[mtf.Tensor | None]:
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


def _train_call() -> tuple[layers.Call, layers.Collector]:
    """Returns a call in training, and its collector."""
    collector = layers.Collector()
    return layers.Call(training=True, collector=collector), collector


@pytest.mark.parametrize("mesh_shape, layout", WHERE)
@pytest.mark.parametrize("rematerialised", [False, True])
def test_moving_averages_follow_the_batches_and_are_used_in_evaluation(
    rematerialised: bool, mesh_shape: str, layout: str
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    norm = layers.BatchNorm(mesh, [CHANNELS], momentum=0.75)
    mtf.initialize(norm)
    variables = norm.named_variables()

    def train(x: mtf.Tensor) -> mtf.Tensor:
        call, collector = _train_call()
        y = layers.recompute(norm, x, call) if rematerialised else norm(x, call)
        assert list(collector.contents.updates) == layers.updated_paths(norm)
        for path, value in collector.contents.updates.items():
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

    collector = layers.Collector()
    evaluation = layers.Call(collector=collector)
    x = _batch(9)
    y = mtf.function(lambda x: norm(x, evaluation))(mtf.import_tf_tensor(mesh, x, SHAPE))
    assert collector.contents.updates == {}
    assert_close(mtf.to_numpy(y), (x - mean) / np.sqrt(variance + 1e-5))


def test_only_scale_and_bias_are_trained() -> None:
    norm = layers.BatchNorm(mtf.Mesh(), [CHANNELS], init_zero=True)
    mtf.initialize(norm)
    trained = {path for path, v in norm.named_variables().items() if v.trainable}
    assert trained == {"scale", "bias"}
    assert mtf.to_numpy(norm.scale).tolist() == [0, 0, 0, 0]


def _updates(norm: layers.BatchNorm, x: mtf.Tensor) -> dict[str, np.ndarray]:
    """Returns the next moving averages after a batch."""
    call, collector = _train_call()
    norm(x, call)
    return {path: mtf.to_numpy(value) for path, value in collector.contents.updates.items()}


def test_updates_of_microbatches_average_to_the_update_of_their_statistics() -> None:
    mesh = mtf.Mesh()
    norm = layers.BatchNorm(mesh, [CHANNELS], momentum=0.5)
    mtf.initialize(norm)
    updates = [_updates(norm, mtf.import_tf_tensor(mesh, _batch(i), SHAPE)) for i in range(2)]
    mean = np.mean([_statistics(_batch(i))[0] for i in range(2)], axis=0)
    assert_close((updates[0]["moving_mean"] + updates[1]["moving_mean"]) / 2, 0.5 * mean)


def test_bfloat16_images_have_float32_statistics() -> None:
    mesh = mtf.Mesh()
    norm = layers.BatchNorm(mesh, [CHANNELS])
    mtf.initialize(norm)
    x = mtf.to_bfloat16(mtf.import_tf_tensor(mesh, _batch(0), SHAPE))
    assert norm(x, layers.Call(training=True)).dtype == tf.bfloat16
    moving_mean = _updates(norm, x)["moving_mean"]
    assert moving_mean.dtype == np.float32
    mean, _ = _statistics(mtf.to_numpy(mtf.to_float(x)))
    assert_close(moving_mean, 0.1 * mean)


def test_a_bias_of_another_shape_than_the_scale_is_an_error() -> None:
    mesh = mtf.Mesh()
    with pytest.raises(mtf.ShapeError, match="the scale has the shape"):
        mtf.batch_normalize(mtf.zeros(mesh, SHAPE), mtf.ones(mesh, [CHANNELS]), mtf.zeros(mesh, []))


def test_an_unbiased_moving_variance_is_that_of_torch() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, "")
    norm = layers.BatchNorm(mesh, [CHANNELS], momentum=0.75, unbiased=True)
    mtf.initialize(norm)
    call, collector = _train_call()
    x = _batch(0)
    norm(mtf.import_tf_tensor(mesh, x, SHAPE), call)
    average = dict(collector.contents.updates)["moving_variance"]
    expected = 0.75 + 0.25 * x.var((0, 1, 2, 3), ddof=1)
    assert_close(mtf.to_numpy(average), expected)
